"""Methods: a training step and a forward pass of each, against `mean`."""

import pytest
import torch
from measuring import fastest, report

from rsseg.models.catalogue import METHODS, build

CHANNELS = {"rgb": 3, "nir": 1, "dsm": 1}


@pytest.mark.parametrize("backbone", ["mit_b0", "pvt_v2_b2"])
def bench_steps(backbone):
    batch, size = 4, 128
    images = {name: torch.randn(batch, bands, size, size) for name, bands in CHANNELS.items()}
    valid = {name: torch.ones(batch, size, size, dtype=torch.bool) for name in CHANNELS}
    target = torch.randint(0, 5, (batch, size, size))
    models = {name: build(name, modalities=CHANNELS, classes=5, backbone=backbone) for name in METHODS}

    def step(name: str) -> None:
        model = models[name].train()
        model.zero_grad()
        torch.stack(list(model.losses(images, valid, target).values())).sum().backward()

    def infer(name: str) -> None:
        with torch.inference_mode():
            models[name].eval()(images, valid)

    for title, job in (("training step", step), ("inference", infer)):
        times = fastest({name: (lambda name=name, job=job: job(name)) for name in METHODS}, rounds=3)
        report(f"{title}, {backbone}, {batch} tiles of {size}²", times, "mean")
