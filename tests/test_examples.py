"""The examples run."""

import ast
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure

import rsseg
from rsseg import cli, datasets
from rsseg.data.tiles import normalised

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALLER = {
    "simulate": ["--size", "128", "--train", "2", "--val", "1", "--test", "1"],
    "train": [
        "data.tile=64",
        "data.samples=4",
        "model.options.decoder_width=16",
        "train.epochs=1",
        "train.batch=2",
        "train.val_tiles=2",
        "predict.tile=64",
        "predict.overlap=16",
    ],
}
"""What the test adds to the demo's own commands."""


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The demo's folder, after it ran twice."""
    folder = tmp_path_factory.mktemp("demo folder")  # a space in the path
    (folder / "maps").mkdir()
    (folder / "maps" / "mine.txt").write_text("mine")
    original = cli.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run", lambda argv: original([*argv, "--quiet", *SMALLER.get(argv[0], [])]))
        for _ in range(2):
            example("demo").main(folder)
    return folder


def test_demo_ends_with_maps_scores_and_a_model(demo):
    assert (demo / "run/best.safetensors").is_file()
    content = json.loads((demo / "run/scores/scores.json").read_text())
    assert len(content["scenarios"]) == 7
    for folder, used in (("maps", "rgb,nir,dsm"), ("maps/without_rgb", "nir,dsm")):
        with rasterio.open(demo / folder / "test_000_classes.tif") as made:
            assert made.tags()["RSSEG_MODALITIES"] == used
            assert made.read(1).max() < 5
    assert (demo / "maps/mine.txt").read_text() == "mine"


def test_demo_stops_at_the_first_command_that_fails(tmp_path, monkeypatch, capsys):
    codes = {"simulate": 0, "train": 1}
    monkeypatch.setattr(cli, "run", lambda argv: codes[argv[0]])
    with pytest.raises(SystemExit) as caught:
        example("demo").main(tmp_path)
    assert caught.value.code == 1
    assert "evaluate" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_picture_puts_panels_three_abreast(demo, tmp_path):
    out = tmp_path / "picture.png"
    example("picture").main(demo / "city", "test_000", out, [demo / "maps/test_000_classes.tif"])
    with rasterio.open(out) as file:
        pixels = file.read()
    assert pixels.shape == (3, 2 * 128 + 8, 3 * 128 + 2 * 8)
    assert (pixels[:, :, 128:136] == 255).all()
    assert (pixels[:, 128:136] == 255).all()
    assert (pixels[:, 136:, 136:] == 255).all()  # four panels: two places stay empty
    with rasterio.open(demo / "city/rgb/test_000.tif") as file:
        assert np.array_equal(pixels[:, :128, :128], file.read())


# ---- short scripts


TINY = [
    *("model.options={decoder_width: 8}", "data.samples=4", "train.batch=2", "train.epochs=1"),
    *("train.val_every=1", "train.val_tiles=2"),
]
"""What the tests add to the short training of small_city.py."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder that small_city.py makes."""
    folder = tmp_path_factory.mktemp("small city")
    module = example("small_city")
    module.CHANGES += TINY
    module.make(folder)
    return folder


@pytest.fixture
def script(trained, monkeypatch):
    """Loads a script that finds a trained model instead of training one."""

    def fit(plan, out, *, overwrite):
        shutil.copytree(trained / "run", out)
        return out / "best.safetensors"

    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(rsseg, "fit", fit)
    yield example
    sys.modules.pop("small_city", None)


def test_own_sink_holds_every_pixel(script, tmp_path):
    found = np.load(script("own_sink").main(tmp_path))
    assert found.shape == (256, 256)
    assert np.nanmin(found) >= 0
    assert np.nanmax(found) <= 1
    model = rsseg.load_model(tmp_path / "run/best.safetensors")
    scene = next(s for s in _scenes(tmp_path) if s.id == "test_000")
    maps = rsseg.predict_scene(model, scene, kinds=["classes", "probabilities"])
    assert np.array_equal(np.isnan(found), maps["classes"].to_numpy() == 255)
    codes = maps["probabilities"].to_numpy()[1]
    assert np.allclose(254 * found[codes < 255], codes[codes < 255], atol=0.51)


def _scenes(folder):
    return datasets.scenes(folder / "city", datasets.load("simulated_city"))


def test_data_sets_of_xarray_come_back_with_maps(script, tmp_path):
    found = script("xarray_and_back").main(tmp_path)
    assert {"red", "height", "classes", "confidence", "probabilities"} <= set(found.data_vars)
    assert found.sizes == {"y": 256, "x": 256, "class": 5}
    total = found["probabilities"].sum("class", skipna=False)
    assert float(abs(total - 1).max()) < 0.02
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_many_scenes_are_mapped_and_measured(script, tmp_path):
    found = script("many_scenes").main(tmp_path)
    assert len(found) == 8
    assert (found["buildings_m2"] >= 0).all()
    assert len(list((tmp_path / "city/nir").glob("*.tif"))) < 8


@pytest.mark.slow
def test_onnx_gives_the_classes_that_torch_gives(script, tmp_path):
    pytest.importorskip("onnxruntime")
    classes = script("onnx_elsewhere").main(tmp_path)
    model = rsseg.load_model(tmp_path / "run/best.safetensors")
    known, window = model.facts, rsseg.Window(0, 0, 64, 64)
    opened = rsseg.open_scene(next(iter(_scenes(tmp_path).of("test"))), known.modalities, None)
    tiles = {
        name: normalised(opened, known.modalities[name], known.statistics[name], window)
        for name in ("rgb", "dsm")
    }
    images, valid = ({name: torch.from_numpy(tile[k])[None] for name, tile in tiles.items()} for k in (0, 1))
    with torch.no_grad():
        logits = model.segmenter(images, valid)
    assert (logits[0].argmax(0).numpy() == classes).mean() > 0.999


@pytest.mark.slow
def test_small_city_is_learnt_in_seconds(tmp_path):
    model, scenes = example("small_city").make(tmp_path)
    assert len(scenes) == 8
    assert model.training["gsd"] == 0.5
    maps = rsseg.predict_scene(model, next(iter(scenes.of("test"))))
    assert len(np.unique(maps["classes"])) > 2


# ---- notebooks


NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def cells(path: Path) -> list[ast.Module]:
    """Returns the code of a notebook, cell by cell, without Jupyter's own commands."""
    content = json.loads(path.read_text(encoding="utf-8"))
    codes = [cell["source"] for cell in content["cells"] if cell["cell_type"] == "code"]
    return [ast.parse("".join(line for line in lines if not line.startswith("%"))) for lines in codes]


def run_cell(cell: ast.Module, scope: dict[str, object]) -> object:
    """Runs a cell and returns what its last line shows."""
    shown = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
    exec(compile(cell, "cell", "exec"), scope)  # noqa: S102 - that is the test
    return None if shown is None else eval(compile(ast.Expression(shown.value), "cell", "eval"), scope)  # noqa: S307


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_hold_no_results(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    shown = [run_cell(cell, scope) for cell in cells(path)]
    figures = [value for value in shown if isinstance(value, Figure)]
    assert len(figures) == 3
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
    assert (tmp_path / "first_steps/part.png").is_file()
