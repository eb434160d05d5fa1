"""rsseg stats: what it prints, that training finds what it read, and numpy as the oracle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from rsseg import cli
from rsseg.modality import PERCENTILES

DATA = {"dataset": "simulated_city", "modalities": ["rgb", "dsm"], "tile": 64, "samples": 4}
MODEL = {"method": "mean", "backbone": "mit_b0", "weights": None, "options": {"decoder_width": 16}}
TRAIN = {"epochs": 1, "batch": 4, "val_tiles": 2}


@pytest.fixture
def root(city, tmp_path) -> Path:
    return Path(shutil.copytree(city, tmp_path / "city", ignore=shutil.ignore_patterns(".rsseg")))


@pytest.fixture
def recipe(root, tmp_path) -> str:
    path = tmp_path / "mini.yaml"
    content = {"data": {**DATA, "root": str(root)}, "model": MODEL, "train": TRAIN}
    path.write_text(yaml.safe_dump({**content, "trainer": {"accelerator": "cpu"}}))
    return str(path)


def pixels(root: Path, name: str) -> np.ndarray:
    """Returns all valid pixels of the training scenes, (bands, n)."""
    parts = []
    for path in sorted((root / name).glob("train_*.tif")):
        with rasterio.open(path) as file:
            parts.append(file.read()[:, file.dataset_mask() != 0].astype(float))
    return np.concatenate(parts, 1)


def test_json_is_what_numpy_says(recipe, root, capsys):
    assert cli.run(["stats", recipe, "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    content = json.loads(printed.out)
    values = pixels(root, "rgb")
    rgb = content["modalities"]["rgb"]
    assert rgb["count"] == values.shape[1]
    assert rgb["bands"] == ["red", "green", "blue"]
    np.testing.assert_allclose(rgb["mean"], values.mean(1))
    np.testing.assert_allclose(rgb["std"], values.std(1))
    np.testing.assert_allclose(rgb["minimum"], values.min(1))
    np.testing.assert_allclose(rgb["maximum"], values.max(1))
    np.testing.assert_allclose(rgb["percentiles"], np.percentile(values, PERCENTILES, axis=1).T, atol=1e-4)
    assert rgb["levels"] == list(PERCENTILES)
    assert content["modalities"]["dsm"]["share"] == pytest.approx(pixels(root, "dsm").size / 3 / 160**2)
    labels = np.bincount(pixels(root, "labels").astype(int).ravel(), minlength=6)
    assert [entry["pixels"] for entry in content["classes"]] == labels[:5].tolist()
    weighted = [entry["weight"] * entry["pixels"] for entry in content["classes"] if entry["pixels"]]
    np.testing.assert_allclose(weighted, np.median(labels[:5][labels[:5] > 0]))


def test_tables_name_bands_and_classes(recipe, capsys):
    assert cli.run(["stats", recipe]) == 0
    printed = capsys.readouterr()
    for word in ("red", "height", "building", "weight", "p50", "valid pixels"):
        assert word in printed.out
    assert "statistics: 27 windows read, kept in" in printed.err
    assert max(map(len, printed.out.splitlines())) <= 80


def test_training_finds_what_stats_read_and_the_other_way(recipe, root, tmp_path, capsys):
    assert cli.run(["stats", recipe]) == 0
    capsys.readouterr()
    assert cli.run(["train", recipe, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    assert "statistics: from the cache" in told
    assert "labels of train: from the cache" in told
    shutil.rmtree(root / ".rsseg")
    assert cli.run(["train", recipe, "--out", str(tmp_path / "run"), "--overwrite"]) == 0
    capsys.readouterr()
    assert cli.run(["stats", recipe]) == 0
    assert "windows read" not in capsys.readouterr().err


def test_changed_files_are_read_anew(recipe, root, capsys):
    assert cli.run(["stats", recipe, "--json", "--quiet"]) == 0
    before = json.loads(capsys.readouterr().out)["modalities"]["dsm"]["mean"]
    with rasterio.open(root / "dsm/train_001.tif", "r+") as file:
        file.write(np.zeros_like(file.read()))
    assert cli.run(["stats", recipe, "--json"]) == 0
    printed = capsys.readouterr()
    assert "statistics: 27 windows read" in printed.err
    assert "labels of train: from the cache" in printed.err
    assert json.loads(printed.out)["modalities"]["dsm"]["mean"] != before


def test_refresh_reads_everything(recipe, capsys):
    assert cli.run(["stats", recipe, "--quiet"]) == 0
    assert cli.run(["stats", recipe, "--refresh"]) == 0
    assert "from the cache" not in capsys.readouterr().err


def test_a_cache_elsewhere(recipe, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    assert cli.run(["stats", recipe, "data.cache=${KEPT}/here", "data.statistics_tiles=5"]) == 0
    printed = capsys.readouterr()
    assert "statistics: 5 windows read" in printed.err
    assert len(list((tmp_path / "kept" / "here").iterdir())) == 2
    assert not (root / ".rsseg").exists()


def test_bad_input_is_one_line(recipe, root, capsys):
    shutil.copy(root / "rgb/test_000.tif", root / "rgb/train_008.tif")
    shutil.copy(root / "labels/test_000.tif", root / "labels/train_008.tif")
    assert cli.run(["stats", recipe]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: scenes ")
    assert error.count("\n") == 1
