"""The task against literal formulas and brute force."""

from copy import deepcopy

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from rsseg.batch import Batch, Place, Sample
from rsseg.geo import Window
from rsseg.metrics import Scores
from rsseg.models.losses import cross_entropy
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.recipe import Train
from rsseg.train.callbacks import weight_averaging
from rsseg.train.task import SegmentationTask, average, factor

K, SIDE = 3, 16


class Pixelwise(Segmenter):
    """A 1 × 1 convolution with batch norm per modality; two losses."""

    def __init__(self, modalities=("a", "b")) -> None:
        super().__init__(Plan(dict.fromkeys(modalities, 2), K, "none"), 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2, K, 1), nn.BatchNorm2d(K)) for _ in self.modalities
        )

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        parts = [
            torch.where(v[:, None], layer(x), 0.0)
            for layer, x, v in zip(self.layers, state.images, state.valid.unbind(1), strict=True)
        ]
        return torch.stack(parts).sum(0)

    def _losses(self, state, target):
        loss = cross_entropy(self._logits(state), target)
        return {"one": loss, "two": 0.5 * loss}


def sample(seed: int, names=("a", "b")) -> Sample:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, K, (SIDE, SIDE), generator=g)
    target[0] = 255
    return Sample(
        {n: torch.randn(2, SIDE, SIDE, generator=g) for n in names},
        {n: torch.rand(SIDE, SIDE, generator=g) > 0.4 for n in names},
        target,
        Place("s", Window(0, 0, SIDE, SIDE)),
    )


def batches(count: int, size: int = 2):
    return [Batch.of([sample(size * k + i) for i in range(size)]) for k in range(count)]


def loader(count: int):
    return DataLoader([sample(k) for k in range(2 * count)], batch_size=2, collate_fn=Batch.of)


def reference_factor(step, steps, warmup, power):
    if step < warmup:
        return 0.1 + 0.9 * step / warmup
    return (1 - (step - warmup) / (steps - warmup)) ** power


@pytest.mark.parametrize(("steps", "warmup", "power"), [(100, 10, 0.9), (37, 18.5, 2.0), (50, 0, 1.0)])
def test_schedule_is_the_formula(steps, warmup, power):
    found = [factor(step, steps, warmup, power) for step in range(steps + 1)]
    assert found == pytest.approx([reference_factor(s, steps, warmup, power) for s in range(steps + 1)])
    assert found[-1] == 0
    assert factor(steps + 5, steps, warmup, power) == 0  # never a complex number
    assert factor(0, 1, 0, 0.9) == 1
    assert factor(1, 1, 1, 0.9) == 1


class Fit:
    """Runs Lightning's loop on a few batches, recording learning rates and weights after every step."""

    def __init__(self, settings: Train, *, ema: float = 0, count: int = 3, epochs: int = 1) -> None:
        torch.manual_seed(3)
        self.task = SegmentationTask(Pixelwise(), ["a", "b"], settings)
        self.rates: list[list[float]] = []
        self.states: list[dict[str, torch.Tensor]] = []
        self.averaging = weight_averaging(ema) if ema else None
        fit = self

        class Recorder(lightning.Callback):
            def on_train_batch_start(self, trainer, *args):
                fit.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

            def on_train_batch_end(self, trainer, task, *args):
                fit.states.append(deepcopy(task.segmenter.state_dict()))

        self.trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[Recorder(), *([self.averaging] if self.averaging else [])],
        )
        self.trainer.fit(self.task, loader(count))


QUIET = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*number of training batches",
    "ignore:.*treespec, LeafSpec:FutureWarning",
    "ignore:.*no `val_dataloader`",
    "ignore:You defined a `validation_step`",
)


@QUIET
def test_learning_rate_climbs_then_falls_step_by_step():
    run = Fit(Train(epochs=4, lr=1e-2, warmup_epochs=1, power=0.9), count=3, epochs=4)
    expected = [1e-2 * reference_factor(step, 12, 3, 0.9) for step in range(12)]
    assert [rates[0] for rates in run.rates] == pytest.approx(expected)
    assert [rates[1] for rates in run.rates] == pytest.approx(expected)


@QUIET
def test_warmup_takes_half_of_the_run_at_most():
    run = Fit(Train(epochs=2, lr=1.0, warmup_epochs=10), count=3, epochs=2)
    assert [r[0] for r in run.rates] == pytest.approx([reference_factor(s, 6, 3, 0.9) for s in range(6)])


def test_only_weights_with_two_axes_or_more_decay():
    task = SegmentationTask(Pixelwise(), ["a", "b"], Train(weight_decay=0.3))
    decayed, free = task._groups()
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert {p.shape for p in decayed["params"]} == {(K, 2, 1, 1)}
    assert {p.shape for p in free["params"]} == {(K,)}
    assert len(decayed["params"]) + len(free["params"]) == len(list(task.segmenter.parameters()))


def test_frozen_parameters_are_not_optimised():
    segmenter = Pixelwise()
    segmenter.layers[0].requires_grad_(False)
    groups = SegmentationTask(segmenter, ["a", "b"], Train())._groups()
    assert sum(len(group["params"]) for group in groups) == 4


def test_loss_is_the_sum_of_the_terms_where_something_is_seen(monkeypatch):
    task = SegmentationTask(Pixelwise(), ["a", "b"], Train())
    logged = {}
    monkeypatch.setattr(task, "log", lambda name, value, **options: logged.update({name: value.item()}))
    (batch,) = batches(1)
    total = task.training_step(batch, 0)
    seen = batch.valid["a"] | batch.valid["b"]
    target = torch.where(seen, batch.target, 255)
    expected = nn.functional.cross_entropy(
        task.segmenter(batch.images, batch.valid), target, ignore_index=255
    )
    assert total.item() == pytest.approx(1.5 * expected.item(), rel=1e-5)
    assert logged["train/loss"] == pytest.approx(total.item())
    assert logged["train/one"] + logged["train/two"] == pytest.approx(total.item())


@pytest.mark.parametrize("rule", ["bernoulli", "one_of", "swath"])
def test_availability_hides_from_the_loss_too(rule, monkeypatch):
    task = SegmentationTask(Pixelwise(), ["a", "b"], Train(availability=rule, missing=0.9))
    monkeypatch.setattr(task, "log", lambda *args, **options: None)
    (batch,) = batches(1)
    torch.manual_seed(1)
    visible = task.available(batch.valid)
    seen = torch.stack(list(visible.values())).any(0)
    expected = task.segmenter.losses(batch.images, visible, torch.where(seen, batch.target, 255))
    torch.manual_seed(1)
    total = task.training_step(batch, 0)
    assert total.item() == pytest.approx(sum(expected.values()).item())
    assert all((visible[name] <= batch.valid[name]).all() for name in visible)


def brute_force(task, given, subset):
    """Loops over pixels in plain Python."""
    hits, actual, guessed = [0] * K, [0] * K, [0] * K
    counted = seen = 0
    for batch in given:
        visible = {n: v if n in subset else torch.zeros_like(v) for n, v in batch.valid.items()}
        logits = task.segmenter(batch.images, visible)
        for b in range(len(batch.places)):
            for r in range(SIDE):
                for c in range(SIDE):
                    truth = int(batch.target[b, r, c])
                    if truth == 255 or not any(bool(v[b, r, c]) for v in batch.valid.values()):
                        continue
                    counted += 1
                    actual[truth] += 1
                    if any(bool(batch.valid[n][b, r, c]) for n in subset):
                        seen += 1
                        guess = int(logits[b, :, r, c].argmax())
                        guessed[guess] += 1
                        hits[truth] += guess == truth
    iou = [h / (a + g - h) for h, a, g in zip(hits, actual, guessed, strict=True)]
    return sum(iou) / K, sum(hits) / counted, seen / counted, iou


@torch.no_grad()
def test_validation_scores_are_brute_force():
    torch.manual_seed(0)
    task = SegmentationTask(Pixelwise(), ["a", "b"], Train()).eval()
    given = batches(2)
    for _ in range(2):  # the second time, nothing is left of the first
        for k, batch in enumerate(given):
            task.validation_step(batch, k)
        scores = task.scores()[""]
    assert list(scores) == [("a",), ("b",), ("a", "b")]
    for subset, score in scores.items():
        miou, oa, seen, iou = brute_force(task, given, subset)
        assert (score.miou, score.oa, score.seen) == pytest.approx((miou, oa, seen))
        assert score.iou == pytest.approx(iou)
    assert scores["a",].seen < scores["a", "b"].seen == 1
    assert average(scores) == pytest.approx(sum(s.miou for s in scores.values()) / 3)


def test_average_is_the_plain_mean():
    def score(miou):
        return Scores(miou, 0, 1, (), ())

    assert average({("a",): score(0.2), ("b",): score(0.4), ("a", "b"): score(0.9)}) == pytest.approx(0.5)


def test_many_modalities_are_validated_alone_and_together():
    names = ["a", "b", "c", "d", "e"]
    task = SegmentationTask(Pixelwise(names), names, Train())
    assert task.counts[0].subsets == [("a",), ("b",), ("c",), ("d",), ("e",), tuple(names)]


@QUIET
@pytest.mark.parametrize("most", [0.999, 0.3])
def test_averaged_weights_follow_the_literal_recursion(most):
    run = Fit(Train(epochs=4, lr=0.1, warmup_epochs=1), ema=most, count=3, epochs=4)
    expected = run.states[0]
    for n, state in enumerate(run.states[1:], 1):
        decay = min(most, (1 + n) / (10 + n))
        expected = {
            k: decay * expected[k] + (1 - decay) * v if v.is_floating_point() else v for k, v in state.items()
        }
    found = run.task.segmenter.state_dict()  # Lightning leaves the averaged weights in the module
    assert any("running_mean" in name for name in found)
    assert int(found["layers.0.1.num_batches_tracked"]) == 12
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
        assert name.endswith("tracked") or not torch.equal(found[name], run.states[-1][name])
