"""Made-up scores of a model that never was, as the page and the browser are shown them."""

from itertools import product

import numpy as np
import pytest
import torch

from rsseg import modality
from rsseg.checkpoint import Facts
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.check.pictures import encoded
from rsseg.evaluate import scores
from rsseg.evaluate.contributions import Shares
from rsseg.evaluate.pictures import Picture, Said, Shown
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import KINDS, Scenario, scenarios
from rsseg.geo import Window
from rsseg.metrics import subsets
from rsseg.recipe import Recipe

SENSORS = ("rgb", "sar", "dsm")
NAMES = ("water", "building", "low vegetation", "tree", "never seen")
WORTH = {"rgb": 0.35, "sar": 0.1, "dsm": 0.2}
BLOCKS = 12


def right(scenario: Scenario) -> float:
    """Returns the share that is right: each sensor that is hit takes its worth away."""
    share = 1.0 if scenario.parameter is None else min(scenario.parameter, 1.0)
    return 0.9 - share * sum(WORTH[name] for name in scenario.hit)


def result(scenario: Scenario, skill: float, seed: int) -> Result:
    rng, K = np.random.default_rng(seed), len(NAMES)
    blocks = np.zeros((BLOCKS, K, K + 1), np.int64)
    for number, k in product(range(BLOCKS), range(K - 1)):
        share = np.clip(skill * right(scenario) - 0.05 * k + rng.normal(0, 0.05), 0, 1)
        blocks[number, k, k] = round(4000 * share)
        blocks[number, k, (k + 1) % (K - 1)] = 4000 - blocks[number, k, k]
    confidence = (np.arange(15) + 0.5) / 15
    pixels = np.rint(10_000 * confidence**2)
    pixels[:3] = 0
    bins = np.stack([pixels, pixels * confidence, pixels * confidence**1.3], 1)
    places = tuple(("scene_1", 256 * number, 0) for number in range(BLOCKS))
    return Result(scenario, places, torch.from_numpy(blocks), torch.from_numpy(bins))


@pytest.fixture(scope="session")
def made_results():
    """Makes the results of a model: of all scenarios, or of some kinds."""

    def make(kinds=KINDS, *, skill: float = 1.0, seed: int = 0) -> list[Result]:
        sensors = {name: modality.load(name) for name in SENSORS}
        found = scenarios(kinds, sensors, subsets(SENSORS))
        return [result(scenario, skill, seed + k) for k, scenario in enumerate(found)]

    return make


@pytest.fixture(scope="session")
def made_content(made_results):
    """Makes the content of scores.json."""

    def make(
        kinds=KINDS,
        *,
        skill: float = 1.0,
        seed: int = 0,
        shares: bool = True,
        model: str = "runs/one/best.safetensors",
    ):
        recipe = Recipe.model_validate(
            {
                "data": {"dataset": "simulated_city", "root": "x", "modalities": list(SENSORS)},
                "model": {"method": "sgma"},
            }
        )
        class_map = ClassMap(classes=tuple(LandClass(name=name, values=(k,)) for k, name in enumerate(NAMES)))
        sensors = {name: modality.load(name) for name in SENSORS}
        setting = scores.Setting(
            model, "test", ("scene_1", "scene_2"), recipe, command=f"rsseg evaluate {model}"
        )
        told: Shares = {name: dict.fromkeys(SENSORS, (0.5, 0.3, 0.2, 0.1, 0.275)) for name in NAMES[:-1]}
        results = made_results(kinds, skill=skill, seed=seed)
        return scores.content(
            results, Facts(recipe, sensors, class_map, {}), setting, told if shares else None
        )

    return make


@pytest.fixture(scope="session")
def made_pictures():
    """Returns windows in pictures, of noise."""
    rng, palette = np.random.default_rng(0), {0: (0, 0, 255, 255), 1: (250, 80, 0, 255), 255: (0, 0, 0, 0)}

    def classes() -> bytes:
        return encoded(rng.choice([0, 1, 255], (1, 64, 64)).astype(np.uint8), palette)

    def picture(why: str, row: int) -> Picture:
        inputs = tuple(
            Shown(name, encoded(rng.integers(0, 255, (4, 64, 64)).astype(np.uint8))) for name in SENSORS
        )
        said = tuple(Said(subset, classes(), 0.75) for subset in reversed(subsets(SENSORS)))
        legend = (("water", "#0000ff"), ("building", "#fa5000"))
        return Picture(why, "scene_1", Window(row, 0, 64, 64), inputs, classes(), said, legend)

    return [picture(why, 64 * k) for k, why in enumerate(("best", "fall", "worst"))]
