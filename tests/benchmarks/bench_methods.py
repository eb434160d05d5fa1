"""Methods: a training step and a forward pass of each, against `mean`; what each costs at 512²."""

import time
from collections.abc import Callable, Mapping

import pytest
import torch
from measuring import fastest, report
from torch.utils.flop_counter import FlopCounterMode

from rsseg.metrics import subsets
from rsseg.models.catalogue import METHODS, build
from rsseg.models.segmenter import Segmenter

CHANNELS = {"rgb": 3, "nir": 1, "dsm": 1}

SHARING = ("mean", "sgma", "charm", "clip_lora")
"""Methods whose subsets share the encoding of each modality; those of equiseg share the first stage alone."""

OPTIONS = {"clip_lora": {"clip_weights": None}}
"""Random weights cost what learned ones do."""


def made(method: str, backbone: str, channels: Mapping[str, int] = CHANNELS) -> Segmenter:
    return build(method, modalities=channels, classes=5, backbone=backbone, options=OPTIONS.get(method))


@pytest.mark.parametrize("backbone", ["mit_b0", "pvt_v2_b2"])
def bench_steps(backbone):
    batch, size = 4, 128
    images = {name: torch.randn(batch, bands, size, size) for name, bands in CHANNELS.items()}
    valid = {name: torch.ones(batch, size, size, dtype=torch.bool) for name in CHANNELS}
    target = torch.randint(0, 5, (batch, size, size))
    models = {name: made(name, backbone) for name in METHODS}

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


@pytest.mark.parametrize("backbone", ["mit_b0", "pvt_v2_b2"])
def bench_cost(backbone):
    """The README's method table: parameters, multiplications, processor time of an image on one thread."""
    size = 512
    images = {name: torch.randn(1, bands, size, size) for name, bands in CHANNELS.items()}
    valid = {name: torch.ones(1, size, size, dtype=torch.bool) for name in CHANNELS}
    target = torch.randint(0, 5, (1, size, size))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"\n{backbone}, RGB + NIR + DSM at {size}², 5 classes, one thread")
    print(f"  {'method':<10} {'parameters':>12} {'MACs':>10} {'inference':>10} {'training':>10}")
    for name in METHODS:
        model = made(name, backbone).eval()
        count = sum(p.numel() for p in model.parameters())
        counter = FlopCounterMode(display=False)
        with counter:
            model(images, valid)
        macs = counter.get_total_flops() / 2
        with torch.inference_mode():
            use = _processor(lambda model=model: model(images, valid))
        model.train()
        learn = _processor(lambda model=model: sum(model.losses(images, valid, target).values()).backward())
        print(f"  {name:<10} {count / 1e6:10.2f} M {macs / 1e9:8.1f} G {use:8.2f} s {learn:8.2f} s")
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("modalities", "limit"), [(3, 2.2), (4, 3.5)])
def bench_subsets(modalities, limit):
    """All 2^M - 1 subsets of a tile against one pass with all modalities: most share the encoding."""
    size, channels = 512, dict(list({**CHANNELS, "sar": 2}.items())[:modalities])
    images = {name: torch.randn(1, bands, size, size) for name, bands in channels.items()}
    valid = {name: torch.ones(1, size, size, dtype=torch.bool) for name in channels}
    chosen = subsets(list(channels))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"\n{len(chosen)} subsets, pvt_v2_b2 at {size}², one thread, against one pass with all modalities")
    ratios = {}
    for name in (*SHARING, "equiseg"):
        model = made(name, "pvt_v2_b2", channels).eval()
        with torch.inference_mode():
            one = _processor(lambda model=model: model(images, valid))
            every = _processor(lambda model=model: model.forward_subsets(images, valid, chosen))
        ratios[name] = every / one
        print(f"  {name:<10} {one:6.2f} s   {every:6.2f} s   {ratios[name]:5.2f} x")
    torch.set_num_threads(threads)
    assert max(ratios[name] for name in SHARING) < limit, ratios


def _processor(job: Callable[[], object]) -> float:
    """Returns the shortest of three times, seconds of the processor: other jobs do not count."""
    times = []
    for _ in range(3):
        start = time.process_time()
        job()
        times.append(time.process_time() - start)
    return min(times)
