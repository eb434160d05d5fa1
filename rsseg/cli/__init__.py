"""argv → one function per verb; the only room that prints.

A verb's module is imported when the verb is called, so that `rsseg --help` does not wait for torch.
"""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rsseg import __version__
from rsseg.errors import RssegError

VERBS = {
    "train": "Train a model from a recipe.",
    "stats": "Take statistics of the training split.",
    "evaluate": "Score a model on every subset of its modalities.",
    "predict": "Map scenes with a model, also where modalities are missing.",
    "vectorize": "Turn a class map into polygons.",
    "export": "Write a model for other programs.",
    "check": "Open and read all files beforehand, and say what is wrong.",
    "simulate": "Write simulated city scenes as GeoTIFFs.",
    "recipe": "Check a recipe, list the shipped ones, or print the schema.",
    "info": "Say what a model file holds.",
}
"""Verb → what it does; each has a module of its name in this folder, with a typer app called `app`."""


_STOPPED = 130
"""Exit code after Ctrl-C."""


class Verbs(TyperGroup):
    """Verbs that load when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns what `--help` shows of a verb."""
        return TyperCommand(cmd_name, help=VERBS[cmd_name]) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the verb itself."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in VERBS:
            command = get_command(import_module(f"rsseg.cli.{name}").app)
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    show_version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Land-cover maps from several sensors at once, also when some of them are missing."""
    if show_version:
        sys.stdout.write(f"rsseg {__version__}\n")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code.

    0 done; 1 bad input or failure; 2 wrong use; 3 done but some scenes failed; 130 stopped by Ctrl-C.
    """
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: Sequence[str]) -> int:
    """Returns the exit code of a command line; errors that rsseg raises become one line on stderr."""
    try:
        app(args=list(argv), prog_name="rsseg")
    except SystemExit as leaving:
        if leaving.code == _STOPPED:  # click turns Ctrl-C into this, without a word
            sys.stderr.write("stopped\n")
        return leaving.code if isinstance(leaving.code, int) else 0
    except RssegError as error:
        return _fail(str(error))
    except (ImportError, RuntimeError, AttributeError) as error:
        if "torchvision" not in str(error):
            raise
        return _fail(_mismatched(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; check the path and the space left")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return _STOPPED
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return 1


def _mismatched(reason: str) -> str:
    """Torchvision's own message, "operator torchvision::nms does not exist", helps nobody."""
    return (
        f"torch {_version('torch')} and torchvision {_version('torchvision')} were not built for each other "
        f"({reason}); torchvision needs {_wanted()} from the same index; "
        "repair: python -m pip install --force-reinstall torch torchvision"
    )


def _wanted() -> str:
    """Returns torchvision's own requirement, "torch==2.7.0" or "torch (>=2.14.0)"."""
    try:
        needs = requires("torchvision") or []
    except PackageNotFoundError:
        needs = []
    found = (re.match(r"torch(?![\w.-])\s*\(?([^;)]*)", need) for need in needs)
    return next((f"torch{match[1].strip()}" for match in found if match), "a torch")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
