"""Models that are exported in no time, and real ones; pystac's validation without a network."""

import json
from collections.abc import Callable
from pathlib import Path

import pystac
import pytest
import torch
from pystac.validation import stac_validator
from torch import nn
from torch.nn import functional as F

from rsseg.checkpoint import Facts, Model
from rsseg.classmap import ClassMap, LandClass
from rsseg.facts import parse
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.recipe import Recipe

MODALITIES = (
    Modality(name="rgb", role="optical", bands=("red", "green", "blue")),
    Modality(name="dsm", role="elevation", bands=("height",), units="metre", relative="window"),
    Modality(name="s1", role="sar", bands=("vv", "vh"), units="linear", clip=(-30, 5)),
)
CLASSES = ClassMap(
    classes=tuple(
        LandClass(name=name, values=(k,), colour=f"#{k}0ff0{k}")
        for k, name in enumerate(("low plants", "water", "roof", "road"))
    )
)


SHALLOW = {("charm", "mit_b0"): {"depth": 1}}
"""With sizes left open, each unit takes many seconds to export; other backbones keep two per scale."""


def small_options(method: str, backbone: str) -> dict[str, object]:
    """Returns options that make a method small enough to export."""
    if method != "clip_lora":
        return SHALLOW.get((method, backbone), {})
    import open_clip  # noqa: PLC0415 - takes seconds, and few tests need it

    open_clip.add_model_config(Path(__file__).parents[1] / "models" / "rsseg-tiny.json")
    return {"clip": "rsseg-tiny", "clip_weights": None}


class Tiny(Segmenter):
    """A network of a few weights that keeps the contract."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, 8)
        self.stems = nn.ModuleDict({n: nn.Conv2d(c, 6, 8, 8) for n, c in self.modalities.items()})
        self.head = nn.Conv2d(6, plan.classes, 1)

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        size = state.valid.shape[-2:]
        parts = [stem(image) for stem, image in zip(self.stems.values(), state.images, strict=True)]
        seen = F.max_pool2d(state.valid.float(), 8)
        fused = (torch.stack(parts, 1) * seen[:, :, None]).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
        return F.interpolate(self.head(fused.relu()), size=tuple(size), mode="bilinear")

    def _losses(self, state, target):
        raise NotImplementedError


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    return Tiny


@pytest.fixture(scope="session")
def facts_of() -> Callable[..., Facts]:
    """Makes facts; the tile is 64 pixels."""

    def make(method: str = "mean", backbone: str = "mit_b0", class_map: ClassMap = CLASSES) -> Facts:
        names = [entry.name for entry in MODALITIES]
        content = {
            "name": "mini",
            "data": {"dataset": "none", "root": "nowhere", "modalities": names, "tile": 64},
            "model": {
                "method": method,
                "backbone": backbone,
                "weights": None,
                "options": {"decoder_width": 16, **small_options(method, backbone)},
            },
        }
        statistics = {
            entry.name: Statistics(
                mean=tuple(10.0 + k for k in range(entry.channels)), std=(3.0,) * entry.channels
            )
            for entry in MODALITIES
        }
        return Facts(parse(Recipe, content, "mini"), {e.name: e for e in MODALITIES}, class_map, statistics)

    return make


@pytest.fixture(scope="session")
def small(facts_of) -> Callable[..., Model]:
    """Makes a model of a class of networks, with random weights."""

    def make(kind: type[Segmenter] = Tiny, **plan: object) -> Model:
        facts = facts_of()
        torch.manual_seed(3)
        network = kind(Plan(facts.channels, len(facts.class_map), "none", **plan))
        return Model(facts, network.eval(), {"epoch": 2, "average": 0.25}, {"rsseg": "0"})

    return make


@pytest.fixture(scope="session")
def real(facts_of) -> Callable[[str, str], Model]:
    """Makes a model of a method, with random weights and running statistics."""

    def make(method: str, backbone: str) -> Model:
        facts = facts_of(method, backbone)
        torch.manual_seed(4)
        network = facts.network(None).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():  # what begins at 0 would hide what comes before it
                nn.init.normal_(parameter, std=0.2)
        return Model(facts, network, {}, {"rsseg": "0"})

    return make


@pytest.fixture
def validated(monkeypatch) -> Callable[[dict], None]:
    """Validates STAC with pystac, against the core's schemas that it packs and those beside this file."""
    validator = stac_validator.JsonSchemaSTACValidator()
    for path in (Path(__file__).parent / "schemas").glob("*.json"):
        schema = json.loads(path.read_text())
        validator.schema_cache[schema["$id"].removesuffix("#")] = schema

    read = pystac.stac_io.DefaultStacIO.read_text_from_href

    def offline(reader, href):
        assert "://" not in href, f"{href}: not among the schemas"
        return read(reader, href)

    monkeypatch.setattr(pystac.stac_io.DefaultStacIO, "read_text_from_href", offline)

    def check(content: dict) -> None:
        kind = "Item" if content["type"] == "Feature" else "Collection"
        validator.validate(
            content, pystac.STACObjectType[kind.upper()], content["stac_version"], content["stac_extensions"]
        )

    return check
