"""The examples run."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsseg import cli

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
