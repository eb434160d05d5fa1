"""rsseg train."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import lightning
import typer
from lightning.pytorch.callbacks import Callback, RichProgressBar

from rsseg import recipe as recipes
from rsseg.cli import console
from rsseg.train.fit import fit

app = typer.Typer()


class EpochLines(Callback):
    """One line per validation, where stderr is no terminal and bars would fill a log."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Says where the run is."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        parts += [f"{k} {values[k]:.3f}" for k in ("train/loss", "val/average", "val/worst") if k in values]
        console.say("  ".join(parts))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe: a YAML file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. train.epochs=3 data.root=/data")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run [default: runs/NAME]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in OUT stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model from a recipe.

    Writes recipe.yaml, metrics.csv, TensorBoard events, last.ckpt (for --resume) and best.safetensors
    (the model).
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertising between our lines
    loaded = recipes.load(recipe, overrides or [])
    folder = out or Path("runs") / loaded.name
    bars: tuple[Callback, ...] = ()
    if not quiet:
        bars = (RichProgressBar(console_kwargs={"stderr": True}),) if sys.stderr.isatty() else (EpochLines(),)
    with console.bar(quiet=quiet) as advance:
        best = fit(
            loaded,
            folder,
            resume=resume,
            overwrite=overwrite,
            bars=bars,
            say=(lambda line: None) if quiet else console.say,
            progress=partial(advance, "statistics"),
        )
    if as_json:
        console.show_json({"model": str(best), "out": str(folder)})
    else:
        console.show(str(best))
