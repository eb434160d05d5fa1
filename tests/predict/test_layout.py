"""The fastest layout is found in a short time, and layouts change how a network computes, not what."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsseg.checkpoint import Facts, Model, versions
from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import ModelError, RssegError
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict import layout as module
from rsseg.predict.layout import Layout, arithmetic, enough_memory, is_full, joined, measure, prepared
from rsseg.predict.sliding import Sliding
from rsseg.recipe import Recipe

SLIDING = Sliding(32, 8)
CPU = torch.device("cpu")
BANDS = {"a": 2, "b": 1}


class Convolving(Segmenter):
    """One convolution over everything."""

    def __init__(self) -> None:
        super().__init__(Plan(BANDS, 2, "none"), 32)
        self.layer = torch.nn.Conv2d(3, 2, 3, padding=1)
        self.seen: list[tuple[tuple[int, ...], bool]] = []

    def _encode(self, seen):
        ordered = seen.images[0].is_contiguous(memory_format=torch.channels_last)
        self.seen.append((tuple(seen.valid.shape), ordered))
        return seen

    def _logits(self, state):
        return self.layer(torch.cat(state.images, 1))

    def _losses(self, state, target):
        raise NotImplementedError


@pytest.fixture
def model() -> Model:
    modalities = {n: Modality(name=n, role="other", bands=tuple("12"[:c])) for n, c in BANDS.items()}
    recipe = Recipe.model_validate(
        {"data": {"dataset": "none", "root": "none", "modalities": list(BANDS)}, "model": {"method": "mean"}}
    )
    classes = ClassMap(
        classes=tuple(LandClass(name=f"c{k}", values=(k,), colour="#000000") for k in range(2)), ignored=()
    )
    flat = {n: Statistics(mean=(0.0,) * c, std=(1.0,) * c) for n, c in BANDS.items()}
    return Model(Facts(recipe, modalities, classes, flat), Convolving().eval(), {}, versions())


@pytest.fixture
def timed(monkeypatch):
    """Makes layouts take as many seconds a window as a function says; returns those that were tried."""

    def told(seconds):
        tried = []

        def measured(self, layout):
            tried.append(layout)
            found = seconds(layout)
            if isinstance(found, Exception):
                raise found
            clock[0] += found * layout.batch
            return found

        clock = [0.0]
        monkeypatch.setattr(module._Trial, "seconds", measured)
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
        return tried

    return told


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_faster_order_is_taken(channels_last, model, timed):
    timed(lambda layout: 0.1 if layout.channels_last == channels_last else 0.2)
    assert measure(model, SLIDING, ["a"]) == Layout(1, channels_last)


def test_what_gains_little_is_not_taken(model, timed):
    timed(lambda layout: 0.1 - 0.003 * (not layout.channels_last) - 0.003 * (layout.batch > 1))
    assert measure(model, SLIDING, ["a"]) == Layout(1, channels_last=True)


@given(best=st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_batches_grow_while_that_gains(best):
    times = {1 << k: 1e-3 * (0.9**k if 1 << k <= best else 2) for k in range(9)}
    trial = Scripted(lambda layout: times[layout.batch])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Trial, "of", lambda *_: trial)
        found = measure(Untried(), SLIDING, ["a"])
    assert found.batch == best
    assert max(layout.batch for layout in trial.tried_layouts) <= min(2 * best, 64)


class Untried:
    """A model of which only the segmenter's check is asked."""

    class segmenter:  # noqa: N801
        check_tile = staticmethod(lambda tile: None)


class Scripted(module._Trial):
    """Times from a table."""

    def __init__(self, seconds) -> None:
        object.__setattr__(self, "tile", 32)
        object.__setattr__(self, "_seconds", seconds)
        object.__setattr__(self, "tried_layouts", [])

    def first(self):
        return [Layout(1, channels_last=True), Layout(1)]

    def seconds(self, layout):
        self.tried_layouts.append(layout)
        return self._seconds(layout)


def test_slow_networks_are_measured_once_in_each_order(model, timed):
    tried = timed(lambda layout: 3.0)
    lines = []
    assert measure(model, SLIDING, ["a"], lines.append) == Layout(1, channels_last=True)
    assert tried == [Layout(1, channels_last=True), Layout(1)]
    assert lines == ["batch 1, channels last, float32: 3e+03 ms a window"]


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_batches_stop_growing_where_memory_ends(failure, model, timed):
    lines = []
    timed(lambda layout: failure if layout.batch == 4 else 0.01 / layout.batch)
    assert measure(model, SLIDING, ["a"], lines.append) == Layout(2, channels_last=True)
    assert lines == ["batch 2, channels last, float32: 5 ms a window"]


def test_too_little_memory_for_a_single_window_is_one_line(model, timed):
    timed(lambda layout: torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RssegError, match=r"^tile 32, batch 1: the device's memory is full; take a smaller"):
        measure(model, SLIDING, ["a"])


@pytest.mark.parametrize("batch", [1, 2])
def test_other_failures_of_a_network_stay_as_they_are(batch, model, timed):
    timed(lambda layout: RuntimeError("shapes differ") if layout.batch == batch else 0.01)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(model, SLIDING, ["a"])


def test_networks_are_measured_on_full_tiles_of_the_named_modalities(model, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0)
    before = {k: v.clone() for k, v in model.segmenter.state_dict().items()}
    found = measure(model, SLIDING, ["a"])
    assert found.batch == 1
    assert found.precision == "float32"
    assert model.segmenter.seen == [((1, 2, 32, 32), True), ((1, 2, 32, 32), False)]
    assert all(torch.equal(value, before[k]) for k, value in model.segmenter.state_dict().items())
    with pytest.raises(ModelError, match="tile 33 is not a multiple"):
        measure(model, Sliding(33, 8), ["a"])


def test_weights_and_images_get_the_order_and_lose_it_again(model):
    weight = model.segmenter.layer.weight
    for channels_last in (True, False, True):
        layout = Layout(1, channels_last)
        assert prepared(model.segmenter, layout) == CPU
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        images = joined([torch.rand(2, 32, 32)] * 3, CPU, layout)
        assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert images.shape == (3, 2, 32, 32)


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8)])
def test_a_single_tile_is_not_copied(shape):
    tile = torch.rand(shape)
    assert joined([tile], CPU, Layout(1)).data_ptr() == tile.data_ptr()
    assert torch.equal(joined([tile, tile + 1], CPU, Layout(2)), torch.stack([tile, tile + 1]))


def test_precision_holds_inside_only(model):
    image = torch.rand(1, 3, 8, 8)
    for layout, dtype in ((Layout(1), torch.float32), (Layout(1, precision="bfloat16"), torch.bfloat16)):
        with arithmetic(CPU, layout):
            assert model.segmenter.layer(image).dtype == dtype
        assert model.segmenter.layer(image).dtype == torch.float32


def test_layouts_are_plain_values():
    assert Layout() == Layout(4, channels_last=False, precision="float32")
    assert replace(Layout(), batch=2).batch == 2
    assert len({Layout(1), Layout(1), Layout(1, channels_last=True)}) == 2


def test_only_full_devices_are_explained():
    assert is_full(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_full(RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"), enough_memory(8, Layout(1)):
        raise RuntimeError("size mismatch")
