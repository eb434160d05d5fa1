"""Factories of the models room: tiny models, batches and coverage patterns, all written by code."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rsseg.models import catalogue
from rsseg.models.segmenter import Plan, Segmenter

MODALITIES = {"rgb": 3, "dsm": 1, "s1": 2}
CLASSES = 4
SIDE = 64


@dataclass
class Views:
    """Images and valid maps, as a batch carries them."""

    images: dict[str, Tensor]
    valid: dict[str, Tensor]
    target: Tensor = field(repr=False)

    def only(self, names) -> "Views":
        images, valid = ({n: d[n] for n in names} for d in (self.images, self.valid))
        return Views(images, valid, self.target)

    def item(self, i: int) -> "Views":
        one = slice(i, i + 1)
        images, valid = ({n: t[one] for n, t in d.items()} for d in (self.images, self.valid))
        return Views(images, valid, self.target[one])

    def spoiled(self, value: float) -> "Views":
        images = {n: x.masked_fill(~self.valid[n][:, None], value) for n, x in self.images.items()}
        return Views(images, self.valid, self.target)


def covered(pattern: str, generator: torch.Generator, shape: tuple[int, int, int]) -> Tensor:
    batch, height, width = shape
    rows = torch.arange(height)[:, None] + torch.arange(width)
    whole = torch.ones(shape, dtype=torch.bool)
    patterns = {
        "whole": whole,
        "swath": whole & (rows > 20) & (rows < 70),
        "scattered": torch.rand(shape, generator=generator) < 0.1,
        "pixel": whole & (rows == 0),
        "half the batch": whole & (torch.arange(batch) % 2 == 0)[:, None, None],
        "nothing": ~whole,
    }
    return patterns[pattern]


PATTERNS = ("whole", "swath", "scattered", "pixel", "half the batch", "nothing")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def views() -> Callable[..., Views]:
    """Makes a batch; `patterns` name the coverage of some modalities, the others are whole."""

    def make(patterns: dict[str, str] | None = None, modalities=MODALITIES, batch: int = 2) -> Views:
        generator = torch.Generator().manual_seed(1)
        shape = (batch, SIDE, SIDE)
        images = {n: torch.randn(batch, c, SIDE, SIDE, generator=generator) for n, c in modalities.items()}
        valid = {n: covered((patterns or {}).get(n, "whole"), generator, shape) for n in modalities}
        return Views(images, valid, torch.randint(0, CLASSES, shape, generator=generator))

    return make


@pytest.fixture(scope="session")
def ready() -> Callable[[str, str], Segmenter]:
    """Returns a model in eval mode, built once; tests that train build their own."""
    built: dict[tuple[str, str], Segmenter] = {}

    def model(method: str, backbone: str = "mit_b0") -> Segmenter:
        if (method, backbone) not in built:
            built[method, backbone] = fresh(method, backbone)
        return built[method, backbone].eval()

    return model


def small(method: str) -> dict[str, object]:
    """Returns options that make a method small: a CLIP of two narrow layers with random weights."""
    if method != "clip_lora":
        return {}
    import open_clip  # noqa: PLC0415 - takes seconds, and few tests need it

    open_clip.add_model_config(Path(__file__).with_name("rsseg-tiny.json"))
    return {"clip": "rsseg-tiny", "clip_weights": None}


def fresh(method: str, backbone: str = "mit_b0", domains=()) -> Segmenter:
    torch.manual_seed(2)
    plan = Plan(MODALITIES, CLASSES, backbone, domains=domains)
    model = catalogue.assemble(method, plan, {"decoder_width": 32, **small(method)})
    # gates that start at 0 would hide what is behind them
    for name, parameter in model.named_parameters():
        if name.endswith((".gate", ".gamma")) or ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    # random running statistics: with those of a new network, batch normalisation would hide its own effects
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    # and what begins at 0 would hide all that comes before it
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def make_model() -> Callable[..., Segmenter]:
    return fresh
