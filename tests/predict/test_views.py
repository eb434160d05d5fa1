"""What a model says about a scene, against a literal reading: windows, softmax, weights, valid pixels."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsseg.checkpoint import Facts, Model, versions
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import OpenScene, open_scene
from rsseg.errors import GridError, ModelError, RasterError, RssegError
from rsseg.geo import Window, cover
from rsseg.metrics import subsets
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict.blend import window_weights
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Sliding, tops
from rsseg.predict.views import View, strongest, views
from rsseg.recipe import Recipe

K = 3
BANDS = {"b": 1, "a": 2, "c": 1}  # the model's order, which is not that of the alphabet
MODALITIES = {
    name: Modality(name=name, role="other", bands=tuple("123"[:count]), nodata=-1)
    for name, count in BANDS.items()
}
STATISTICS = {name: Statistics(mean=(0.5,) * count, std=(2.0,) * count) for name, count in BANDS.items()}
CLASSES = ClassMap(
    classes=tuple(LandClass(name=f"c{k}", values=(k,), colour="#000000") for k in range(K)), ignored=()
)
EVERYTHING = tuple(BANDS)
SHAPE = (150, 171)
TILE = 64
SLIDING = Sliding(TILE, 16)


class Contextual(Segmenter):
    """Logits depend on all of a window, so that windows disagree."""

    def __init__(self) -> None:
        super().__init__(Plan(BANDS, K, "none"), 32)
        generator = torch.Generator().manual_seed(7)
        self.weight = torch.nn.Parameter(torch.randn(K, sum(BANDS.values()), 5, 5, generator=generator))
        self.calls: list[tuple[int, ...]] = []

    def _encode(self, seen):
        self.calls.append((len(seen.valid), *seen.valid.flatten(2).any(-1).all(0).tolist()))
        return seen

    def _logits(self, state):
        bands = torch.cat(state.images, 1)
        near = torch.nn.functional.conv2d(bands, self.weight, padding=2)
        return near + bands.mean((1, 2, 3), keepdim=True)

    def _losses(self, state, target):
        raise NotImplementedError


class Weighing(Contextual):
    """Weighs modalities by what they hold."""

    def shares(self, state):
        strength = torch.stack([image.abs().sum(1) + 1 for image in state.images], 1) * state.valid
        return strength / strength.sum(1, keepdim=True).clamp(min=1e-9)


@pytest.fixture
def model() -> Model:
    data = {"dataset": "none", "root": "none", "modalities": list(BANDS)}
    recipe = Recipe.model_validate({"data": data, "model": {"method": "mean"}})
    return Model(Facts(recipe, MODALITIES, CLASSES, STATISTICS), Weighing().eval(), {}, versions())


@pytest.fixture
def make_scene(write_raster):
    """Writes a scene with gaps and returns it with its arrays; c lies only in the lower right part."""

    def make(shape=SHAPE, *, only=EVERYTHING, seed=3, name="s"):
        rng = np.random.default_rng(seed)
        arrays = {k: rng.normal(size=(BANDS[k], *shape)).astype("f4") for k in only}
        gaps = {"a": np.s_[:, :, 60:100], "b": np.s_[:, 20:90, 40:], "c": np.s_[:, :70]}
        for k, array in arrays.items():
            array[gaps[k]] = -1
            array[:, :5, :7] = -1  # nobody sees the corner
            array[:, 90:] = -1 if k == "c" else array[:, 90:]
        files = {k: Source((write_raster(f"{name}_{k}.tif", v, nodata=-1),)) for k, v in arrays.items()}
        return open_scene(Scene(name, files), MODALITIES, None), arrays

    return make


def whole(stream, first=0) -> list[View]:
    """Returns one view for each subset, of all rows."""
    strips = list(stream)
    row = first
    for strip in strips:
        assert strip.row == row
        row += len(strip.views[0].total)
    parts = zip(*(strip.views for strip in strips), strict=True)
    return [_joined(views) for views in parts]


def _joined(parts) -> View:
    shares = None if parts[0].shares is None else torch.cat([part.shares for part in parts], 1)
    sums, total, present = (
        torch.cat([getattr(part, name) for part in parts], axis)
        for name, axis in (("sums", 1), ("total", 0), ("present", 0))
    )
    return View(sums, total, present, shares)


def literal(model, arrays, subset, sliding=SLIDING, shape=SHAPE):
    """Returns probabilities, contributions and valid maps by the rules, one window after the other."""
    valid = {k: (v != -1).all(0) for k, v in arrays.items() if k in subset}
    sums, total = np.zeros((K, *shape)), np.zeros(shape)
    shares = np.zeros((len(BANDS), *shape))
    for window in cover(shape, sliding.tile, sliding.overlap):
        images, maps = {}, {}
        for k in valid:
            image = np.zeros((BANDS[k], sliding.tile, sliding.tile), "f4")
            seen = np.zeros((sliding.tile, sliding.tile), bool)
            seen[: window.height, : window.width] = valid[k][window.slices]
            image[:, : window.height, : window.width] = (arrays[k][:, *window.slices] - 0.5) / 2
            images[k], maps[k] = torch.from_numpy(image * seen)[None], torch.from_numpy(seen)[None]
        with torch.no_grad():
            said = model.segmenter(images, maps).softmax(1)[0].numpy()
            shared = model.segmenter.contributions(images, maps)
        weights = window_weights(*window.shape, sliding.blend, sliding.overlap).numpy()
        rows, cols = window.slices
        inner = np.s_[..., : window.height, : window.width]
        sums[:, rows, cols] += weights * said[inner]
        total[rows, cols] += weights
        for m, name in enumerate(BANDS):
            shares[m, rows, cols] += weights * shared[name][0].numpy()[inner]
    seen = np.logical_or.reduce(list(valid.values()))
    bits = sum(np.where(valid[k], 1 << m, 0) for m, k in enumerate(BANDS) if k in valid)
    return np.where(seen, sums / total, 0), np.where(seen, shares / total, 0), seen, bits


@pytest.mark.parametrize(
    ("blend", "layout"),
    [("hann", Layout(1)), ("constant", Layout(3)), ("crop", Layout(4, channels_last=True))],
)
def test_every_subset_says_what_the_rules_say(blend, layout, model, make_scene):
    opened, arrays = make_scene()
    asked, sliding = [("a",), ("c",), ("b", "c"), EVERYTHING], Sliding(TILE, 16, blend)
    found = whole(views(model, opened, asked, sliding, layout=layout, contributions=True))
    for subset, view in zip(asked, found, strict=True):
        probabilities, shares, seen, bits = literal(model, arrays, subset, sliding)
        assert np.array_equal(view.seen.numpy(), seen), subset
        assert np.array_equal(view.present.numpy(), bits), subset
        assert view.probabilities.numpy() == pytest.approx(probabilities, abs=2e-6), subset
        assert view.contributions.numpy() == pytest.approx(shares, abs=2e-6), subset


def test_classes_and_confidence_are_those_of_the_probabilities(model, make_scene):
    opened, _ = make_scene()
    (view,) = whole(views(model, opened, [EVERYTHING], SLIDING))
    probabilities, seen = view.probabilities, view.seen
    assert torch.allclose(probabilities.sum(0)[seen], torch.ones(()), atol=1e-5)
    assert not seen.all()
    assert (probabilities[:, ~seen] == 0).all()
    assert torch.equal(view.confidence, probabilities.amax(0))
    assert view.classes.dtype == torch.uint8
    assert torch.equal(view.classes.long(), torch.where(seen, view.sums.argmax(0), 255))
    assert view.contributions is None


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 255), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9999))
def test_the_strongest_is_the_first_of_equals(count, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 3, (count, height, width), generator=generator).float()
    best, index = strongest(values)
    assert torch.equal(best, values.amax(0))
    assert np.array_equal(index.numpy(), values.numpy().argmax(0))


def test_the_strongest_of_large_maps_that_are_cut_out_of_others():
    values = torch.rand(5, 100, 4100)[1:4, 7:93]
    best, index = strongest(values)
    assert torch.equal(best, values.amax(0))
    assert torch.equal(index.long(), values.argmax(0))


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_region_from_any_row_on_is_cut_out_of_the_whole_to_the_last_bit(data, model, make_scene):
    opened, _ = make_scene()
    height, width = (data.draw(st.integers(1, length)) for length in SHAPE)
    row, col = data.draw(st.integers(0, SHAPE[0] - height)), data.draw(st.integers(0, SHAPE[1] - width))
    region, first = Window(row, col, height, width), data.draw(st.integers(0, height - 1))
    layout = Layout(1, channels_last=data.draw(st.booleans()))
    how = {"layout": layout, "contributions": True}
    (expected,) = whole(views(model, opened, [EVERYTHING], SLIDING, **how))
    (found,) = whole(views(model, opened, [EVERYTHING], SLIDING, region=region, first=first, **how), first)
    rows, cols = slice(row + first, row + height), region.slices[1]
    assert torch.equal(found.sums, expected.sums[:, rows, cols])
    assert torch.equal(found.total, expected.total[rows, cols])
    assert torch.equal(found.present, expected.present[rows, cols])
    assert torch.equal(found.shares, expected.shares[:, rows, cols])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("sliding", [SLIDING, Sliding(TILE, 40), Sliding(32, 0)])
def test_a_run_may_go_on_after_every_settled_strip(batch, sliding, model, make_scene):
    opened, _ = make_scene()
    how = {"layout": Layout(batch)}
    (expected,) = whole(views(model, opened, [EVERYTHING], sliding, **how))
    strips = list(views(model, opened, [EVERYTHING], sliding, **how))
    ends = [strip.row + len(strip.views[0].total) for strip in strips if strip.settled]
    assert ends == [*tops(SHAPE[0], sliding)[1:], SHAPE[0]]
    for end in ends[:-1]:
        (found,) = whole(views(model, opened, [EVERYTHING], sliding, first=end, **how), end)
        assert torch.equal(found.sums, expected.sums[:, end:])
        assert torch.equal(found.present, expected.present[end:])


def test_going_on_costs_one_row_of_windows(model, make_scene):
    opened, _ = make_scene()
    computed = {}
    for first in (0, 48, 86):  # windows begin at rows 0, 48, 86
        steps = []

        def note(*step, steps=steps):
            steps.append(step)

        whole(views(model, opened, [EVERYTHING], SLIDING, first=first, progress=note), first)
        assert steps == sorted(set(steps))
        assert steps[-1][0] == steps[-1][1]
        computed[first] = steps[-1][0]
    assert computed == {0: 3 * 4, 48: 3 * 4, 86: 2 * 4}


def test_only_what_a_window_has_goes_into_the_network_and_nothing_where_there_is_nothing(model, make_scene):
    opened, arrays = make_scene()
    whole(views(model, opened, [("a", "c")], SLIDING, layout=Layout(4)))
    expected = []
    for window in cover(SHAPE, TILE, 16):
        has = [bool((arrays[k] != -1).all(0)[window.slices].any()) and k in "ac" for k in sorted(BANDS)]
        expected += [tuple(has)] if any(has) else []
    given = [tuple(call[1:]) for call in model.segmenter.calls for _ in range(call[0])]
    assert sorted(given) == sorted(expected)
    assert (True, False, True) in expected
    assert (True, False, False) in expected


def test_a_scene_in_which_nothing_is_valid_never_meets_the_network(model, make_scene):
    opened, _ = make_scene(only=("c",), shape=(60, 85))
    (view,) = whole(views(model, opened, [EVERYTHING], SLIDING))
    assert model.segmenter.calls == []
    assert not view.seen.any()
    assert (view.classes == 255).all()
    assert (view.confidence == 0).all()
    assert (view.probabilities == 0).all()


def test_subsets_that_come_to_the_same_are_computed_once(model, make_scene, monkeypatch):
    opened, _ = make_scene(only=("a",))
    asked = []
    original = Segmenter.forward_subsets
    monkeypatch.setattr(
        Segmenter,
        "forward_subsets",
        lambda self, images, valid, kept: asked.append(list(kept)) or original(self, images, valid, kept),
    )
    one, two, none = whole(views(model, opened, [("a",), EVERYTHING, ("b", "c")], SLIDING))
    assert all(kept == [("a",)] for kept in asked)
    assert torch.equal(one.probabilities, two.probabilities)
    assert not none.seen.any()


def test_a_subset_alone_is_the_same_as_among_others(model, make_scene):
    opened, _ = make_scene()
    asked = subsets(EVERYTHING)
    for subset, view in zip(asked, whole(views(model, opened, asked, SLIDING)), strict=True):
        (alone,) = whole(views(model, opened, [subset], SLIDING))
        torch.testing.assert_close(alone.probabilities, view.probabilities, atol=1e-6, rtol=0)
        assert torch.equal(alone.present, view.present)


def test_unwanted_windows_leave_pixels_that_others_hold(model, make_scene):
    opened, _ = make_scene()
    (expected,) = whole(views(model, opened, [EVERYTHING], SLIDING))
    (found,) = whole(views(model, opened, [EVERYTHING], SLIDING, wanted=lambda window: window.col == 0))
    assert torch.equal(found.sums[:, :, :48], expected.sums[:, :, :48])
    assert torch.equal(found.present[:, :48], expected.present[:, :48])
    assert not found.seen[:, 64:].any()
    assert (found.probabilities[:, :, 64:] == 0).all()


@pytest.mark.parametrize("size", [(40, 33), (64, 64), (31, 200), (65, 129), (1, 1)])
def test_any_size_of_scene(size, model, write_raster):
    pixels = np.random.default_rng(0).normal(size=(2, *size)).astype("f4")
    opened = open_scene(Scene("s", {"a": Source((write_raster("a.tif", pixels),))}), MODALITIES, None)
    (view,) = whole(views(model, opened, [EVERYTHING], SLIDING))
    expected, _, _, _ = literal(model, {"a": pixels}, EVERYTHING, shape=size)
    assert view.probabilities.numpy() == pytest.approx(expected, abs=2e-6)
    assert view.seen.all()


def test_many_modalities_have_a_bit_each():
    names = tuple(f"m{k:02}" for k in range(12))

    class Wide(Segmenter):
        def __init__(self):
            super().__init__(Plan(dict.fromkeys(names, 1), 1, "none"), 32)
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def _encode(self, seen):
            return seen

        def _logits(self, state):
            return state.images[0]

        def _losses(self, state, target):
            raise NotImplementedError

    class Numbers:
        stored = 1

        def __init__(self, seen):
            self.seen = seen

        def read(self, window):
            return np.ones((1, *window.shape), "f4"), np.full(window.shape, self.seen)

    modalities = {n: Modality(name=n, role="other", bands=("1",)) for n in names}
    recipe = Recipe.model_validate(
        {"data": {"dataset": "none", "root": "none", "modalities": list(names)}, "model": {"method": "mean"}}
    )
    one = ClassMap(classes=CLASSES.classes[:1], ignored=())
    facts = Facts(recipe, modalities, one, {n: Statistics(mean=(0.0,), std=(1.0,)) for n in names})
    readers = {n: Numbers(k in (0, 9, 11)) for k, n in enumerate(names)}
    opened = OpenScene(Scene("s", {}), np.zeros((40, 40)), readers, None)
    (view,) = whole(views(Model(facts, Wide().eval(), {}, {}), opened, [names], Sliding(32, 8)))
    assert view.present.dtype == torch.int32
    assert (view.present == 1 | 1 << 9 | 1 << 11).all()


def test_a_broken_file_is_told_once_and_threads_end(model, make_scene, monkeypatch):
    opened, _ = make_scene()
    reader = type(opened.readers["a"])
    original = reader.read

    def broken(self, window):
        if window.row > 60:
            raise RasterError("s_a.tif: truncated")
        return original(self, window)

    monkeypatch.setattr(reader, "read", broken)
    with pytest.raises(RasterError, match=r"^scene s, [abc], Window\(row=86.*truncated$"):
        list(views(model, opened, [EVERYTHING], SLIDING))
    assert not [t for t in threading.enumerate() if t.name.startswith("rsseg-read")]


def test_a_full_device_is_one_line(model, make_scene, monkeypatch):
    opened, _ = make_scene()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Contextual, "_logits", full)
    with pytest.raises(RssegError, match=r"^tile 64, batch 3: the device's memory is full; .*--tile"):
        list(views(model, opened, [EVERYTHING], SLIDING, layout=Layout(3)))


def test_what_is_wrong_is_told_before_anything_is_read(model, make_scene):
    opened, _ = make_scene()
    unopened = replace(opened, readers={"a": None})
    with pytest.raises(ModelError, match=r"tile 70 is not a multiple of .* 32; use 64 or 96"):
        views(model, unopened, [EVERYTHING], Sliding(70, 16))
    with pytest.raises(ModelError, match=r"unknown modality 'd'; this model knows b, a, c"):
        views(model, unopened, [("a", "d")], SLIDING)
    with pytest.raises(GridError, match=r"is no part of a grid"):
        views(model, unopened, [("a",)], SLIDING, region=Window(100, 0, 60, 20))
    mute = replace(model, segmenter=Contextual().eval())
    with pytest.raises(ModelError, match=r"method mean has no contributions; use one that weighs"):
        views(mute, unopened, [("a",)], SLIDING, contributions=True)


class Hiding:
    """Hides what lies right of a column, before or after pixels are normalised, and shouts."""

    def __init__(self, col, *, after):
        self.col, self.after = col, after

    def _cut(self, pixels, valid, window):
        right = np.arange(window.col, window.col + window.width) >= self.col
        return np.where(right, 99, pixels).astype("f4"), valid & ~right

    def raw(self, name, pixels, valid, window):
        return (pixels, valid) if self.after else self._cut(pixels, valid, window)

    def normalised(self, name, values, valid, window):
        return self._cut(values, valid, window) if self.after else (values, valid)


@pytest.mark.parametrize("batch", [1, 3])
def test_damage_that_does_nothing_changes_nothing(batch, model, make_scene):
    opened, _ = make_scene()
    how = {"layout": Layout(batch), "contributions": True}
    asked = [("a",), ("b", "c"), EVERYTHING]
    clean = whole(views(model, opened, asked, SLIDING, **how))
    found = whole(views(model, opened, asked, SLIDING, damage=Hiding(10**6, after=False), **how))
    for one, other in zip(clean, found, strict=True):
        for name in ("sums", "total", "present", "shares"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("col", [0, 33, 120])
def test_damaged_pixels_are_unseen_but_still_there(after, col, model, make_scene):
    opened, arrays = make_scene()
    asked = [("a",), EVERYTHING]
    clean = list(views(model, opened, asked, SLIDING))
    there = torch.cat([strip.there for strip in clean])
    assert np.array_equal(there.numpy(), np.logical_or.reduce([(v != -1).all(0) for v in arrays.values()]))
    damage = Hiding(col, after=after)
    strips = list(views(model, opened, asked, SLIDING, layout=Layout(2), damage=damage))
    assert torch.equal(torch.cat([strip.there for strip in strips]), there)
    cut = {k: np.where(np.arange(SHAPE[1]) >= col, -1, v).astype("f4") for k, v in arrays.items()}
    for subset, view in zip(asked, whole(iter(strips)), strict=True):
        probabilities, _, seen, bits = literal(model, cut, subset)
        assert np.array_equal(view.seen.numpy(), seen)
        assert np.array_equal(view.present.numpy(), bits)
        assert view.probabilities.numpy() == pytest.approx(probabilities, abs=2e-6)


def test_the_types_of_flags_hold_all_modalities_and_what_was_there(model, make_scene):
    opened, _ = make_scene()
    strips = list(views(model, opened, [EVERYTHING], SLIDING, damage=Hiding(50, after=False)))
    assert strips[0].flags.dtype == torch.uint8
    assert all((strip.views[0].present < 1 << len(BANDS)).all() for strip in strips)
