"""rsseg train."""

import logging
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning
import typer
from lightning.pytorch.callbacks import Callback

from rsseg import recipe as recipes
from rsseg.cli import console
from rsseg.errors import RasterError
from rsseg.train.fit import fit

app = typer.Typer(add_completion=False)


class Progress(Callback):
    """One line per epoch; on a terminal also a bar over all steps, so that it says when the run will end."""

    def __init__(self, advance: console.Advance | None) -> None:
        """Takes what moves the bar, or None where there is none."""
        self.advance = advance
        self.validated = False

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Moves the bar."""
        if self.advance is not None:
            self.advance("training", trainer.global_step, int(trainer.estimated_stepping_batches))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Notes that this epoch has scores."""
        self.validated = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Says how the epoch went."""
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        line = (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {float(values['train/loss']):.4f}"
        )
        if self.validated:
            average, worst = (console.percent(float(values[f"val/{name}"])) for name in ("average", "worst"))
            line += f"  mIoU over subsets, %: Average {average}, worst {worst}"
        self.validated = False
        console.say(line)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe: a YAML file, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. train.epochs=3 data.root=/data")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run", show_default="runs/NAME")] = None,
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
    with console.bar(quiet=quiet) as advance:
        moved = advance if console.stderr.is_terminal else None
        try:
            best = fit(
                loaded,
                folder,
                resume=resume,
                overwrite=overwrite,
                bars=() if quiet else (Progress(moved),),
                say=(lambda line: None) if quiet else console.say,
                progress=partial(advance, "reading labels and statistics"),
            )
        except (KeyboardInterrupt, RasterError) as stop:
            if (folder / "last.ckpt").is_file():
                again = shlex.join(["rsseg", "train", recipe, *(overrides or []), "--out", str(folder)])
                mend = "once the file is mended, " if isinstance(stop, RasterError) else ""
                console.say(f"{mend}go on with: {again} --resume")
            raise
    if as_json:
        console.show_json({"model": str(best), "out": str(folder)})
    else:
        console.show(str(best))
