"""Mapping a scene: everything from GeoTIFF to COG, against the forward passes of the same windows alone."""

import torch
from measuring import fastest, report

from rsseg import classmap
from rsseg.checkpoint import Facts, Model, versions
from rsseg.data.tiles import open_scene
from rsseg.datasets import load, scenes
from rsseg.datasets.simulated import CitySettings, simulate
from rsseg.geo import cover
from rsseg.modality import Statistics
from rsseg.modality import load as modality
from rsseg.predict.scene import Sliding, predict_scene
from rsseg.recipe import load as recipe


def bench_prediction(tmp_path):
    simulate(tmp_path / "city", CitySettings(size=1024, scenes={"test": 1}, modalities=("rgb", "nir", "dsm")))
    modalities = {name: modality(name) for name in ("rgb", "nir", "dsm")}
    flat = {n: Statistics(mean=(0.0,) * m.channels, std=(1.0,) * m.channels) for n, m in modalities.items()}
    facts = Facts(recipe("quickstart"), modalities, classmap.load("simulated_city"), flat)
    model = Model(facts, facts.network(None).eval(), {}, versions())
    (scene,) = scenes(tmp_path / "city", load("simulated_city"))
    opened = open_scene(scene, modalities, None)
    sliding = Sliding(tile=256, overlap=64)
    windows = list(cover(opened.shape, 256, 64))
    images = {name: torch.randn(4, m.channels, 256, 256) for name, m in modalities.items()}
    valid = {name: torch.ones(4, 256, 256, dtype=torch.bool) for name in modalities}

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(-(-len(windows) // 4)):
            model.segmenter(images, valid)

    times = fastest(
        {
            "forward passes alone": forward,
            "rsseg, GeoTIFF to COG": lambda: predict_scene(model, opened, tmp_path, sliding, overwrite=True),
        },
        rounds=2,
    )
    report(f"1024² scene, 3 modalities, {len(windows)} windows of 256²", times, "forward passes alone")
