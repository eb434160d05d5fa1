"""What the other examples need: simulated scenes, and a model that learnt from them for some seconds.

Run: python examples/small_city.py FOLDER
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import rsseg
from rsseg import datasets, recipe
from rsseg.checkpoint import Model
from rsseg.data.scenes import Scenes
from rsseg.datasets.simulated import CitySettings, simulate

MODALITIES = ("rgb", "nir", "dsm")
CHANGES = [
    *("model.method=mean", "model.options={decoder_width: 32}", "data.tile=64", "data.samples=48"),
    *("train.epochs=4", "train.val_every=4", "train.val_tiles=4", "train.lr=0.002", "predict.tile=128"),
    *("trainer.accelerator=cpu", "train.ema=0.9"),
]


def make(folder: Path, missing: Mapping[str, float] | None = None) -> tuple[Model, Scenes]:
    """Returns a model and the scenes of a city, of which a share may lack a modality: {"nir": 0.5}."""
    scenes = {"train": 4, "val": 1, "test": 3}
    city = CitySettings(size=256, scenes=scenes, modalities=MODALITIES, missing=missing or {})
    simulate(folder / "city", city, overwrite=True)
    fit = rsseg.fit  # brings Lightning, whose advertising is switched off next
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    plan = recipe.load("quickstart", [f"data.root={folder / 'city'}", *CHANGES])
    model = rsseg.load_model(fit(plan, folder / "run", overwrite=True))
    return model, datasets.scenes(folder / "city", datasets.load("simulated_city"), MODALITIES)


if __name__ == "__main__":
    model, scenes = make(Path(sys.argv[1] if len(sys.argv) > 1 else "small_city"))
    print(f"{len(scenes)} scenes; {model.training}")
