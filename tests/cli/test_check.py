"""rsseg check: streams, files, exit codes; and every odd file is read or refused in one line."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from rsseg import cli

ODD = Path(os.environ.get("RSSEG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data") / "odd_geotiffs"


def odd_files() -> list[str]:
    if not (ODD / "MANIFEST.csv").is_file():
        return []
    with (ODD / "MANIFEST.csv").open(newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


@pytest.fixture
def city_recipe(city, tmp_path) -> str:
    data = {"dataset": "simulated_city", "root": str(city), "modalities": ["rgb", "dsm"], "tile": 64}
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump({"data": data, "model": {"method": "mean"}}))
    return str(path)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.run(["check", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_recipe(city_recipe, tmp_path, capsys):
    out = tmp_path / "made/check"
    code, printed, progress = run(capsys, city_recipe, f"--out={out}")
    assert code == 0
    assert progress.startswith("scenes 1-5 of 5: ")
    lines = printed.splitlines()
    assert lines[-2:] == [f"{out}/check.html", f"{out}/coverage.gpkg"]
    assert lines[-3].startswith("5 scenes, 0 errors")
    assert {path.name for path in out.iterdir()} == {"check.html", "coverage.gpkg"}
    assert run(capsys, city_recipe, f"--out={out}", "--quiet")[0] == 0  # reports are replaced


def test_json_and_no_files(city_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    code, printed, progress = run(capsys, city_recipe, "--json", "--quiet", "--no-files", "--jobs", "1")
    content = json.loads(printed)
    assert (code, progress) == (0, "")
    assert (content["sound"], content["files"], len(content["scenes"])) == (True, [], 5)
    assert content["scenes"][0]["splits"]
    assert [layer["name"] for layer in content["scenes"][0]["layers"]] == ["rgb", "dsm", "label"]
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_and_a_table(city, tmp_path, capsys):
    argv = [str(city), "--dataset", "simulated_city", "--quick", "--quiet", "--no-files"]
    code, printed, _ = run(capsys, *argv)
    assert code == 0
    assert "only a sample" in printed
    rows = tmp_path / "scenes.csv"
    rows.write_text(f"id,rgb,split\na,{city}/rgb/train_000.tif,train\n")
    code, printed, _ = run(capsys, str(rows), "--json", "--quiet", "--no-files")
    assert (code, json.loads(printed)["scenes"][0]["id"]) == (0, "a")


def test_errors_are_1_and_one_line_each(city, tmp_path, capsys):
    broken = tmp_path / "broken.tif"
    broken.write_text("no raster")
    argv = [
        f"--file=rgb={city}/rgb/train_000.tif",
        f"--file=any thing={broken}",
        f"--file=z={tmp_path}/gone.tif",
    ]
    code, printed, _ = run(capsys, *argv, "--no-files", "--quiet")
    assert code == 1
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "any thing" in errors[0]
    assert "gone.tif: no such file" in errors[1]
    assert "1 scene, 2 errors" in printed


WRONG = [
    ([], "give a RECIPE"),
    (["quickstart", "--file", "a=b.tif"], "only one of them"),
    (["--file", "a.tif"], "expected NAME=PATH"),
    (["no_such_recipe"], "no such file or name"),
    (["."], "--dataset NAME"),
    (["--file", "a=b.tif", "--model", "gone.safetensors"], "no such file"),
]


@pytest.mark.parametrize(("argv", "line"), WRONG)
def test_wrong_use_is_one_line(argv, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, error = run(capsys, *argv)
    assert (code, printed, error.count("\n")) == (1, "", 1)
    assert line in error
    assert not list(tmp_path.iterdir())


def test_a_recipe_whose_reference_is_broken(city, city_recipe, write_raster, tmp_path, capsys):
    root = tmp_path / "city"
    for name in ("rgb", "dsm"):
        (root / name).mkdir(parents=True)
    (root / "rgb/train_000.tif").write_text("no raster")
    write_raster("city/dsm/train_000.tif", np.random.default_rng(1).random((1, 40, 40)).astype("float32"))
    argv = [city_recipe, f"data.root={root}", "data.split=blocks", "--no-files", "--quiet"]
    code, printed, _ = run(capsys, *argv)
    assert code == 1
    assert "cannot be split" in printed
    assert "train_000.tif: no raster" in printed


@pytest.mark.parametrize("name", odd_files())
def test_odd_files_are_read_or_refused(name, real_data, tmp_path, capfd):
    code = cli.run(["check", f"--file=x={ODD / name}", "--json", "--quiet", f"--out={tmp_path}"])
    printed = capfd.readouterr()
    assert printed.err == ""
    content = json.loads(printed.out)
    assert code == (0 if content["sound"] else 1)
    lines = [finding["message"] for finding in content["findings"]]
    assert all(line and "\n" not in line for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"check.html", "coverage.gpkg"}
    if name.startswith("BAD") or name == "corrupt_tiles.tif":
        assert code == 1


CHIPS = {
    "spacenet6_chip": {"rgb": "rgb_unmasked.tif", "sar": "sar_masked.tif"},
    "sen1floods11_chip": {
        "s2": "Spain_7370579_S2Hand.tif",
        "s1": "Spain_7370579_S1Hand.tif",
        "label": "Spain_7370579_LabelHand.tif",
    },
}


@pytest.mark.parametrize("chip", CHIPS)
def test_chips(chip, real_data, tmp_path, capsys):
    files = [f"--file={name}={real_data / chip / path}" for name, path in CHIPS[chip].items()]
    code, printed, _ = run(capsys, *files, "--json", "--quiet", f"--out={tmp_path}")
    assert code == 0
    layers = {layer["name"]: layer for layer in json.loads(printed)["scenes"][0]["layers"]}
    assert list(layers) == list(CHIPS[chip])
    if chip == "spacenet6_chip":
        assert layers["sar"]["files"][0]["nan"] == pytest.approx(0.39, abs=0.01)
    else:
        assert set(layers["label"]["labels"]["values"]) == {"-1", "0", "1"}


def test_a_raster_is_no_recipe(write_raster, capsys):
    path = write_raster("a.tif", np.ones((9, 9), np.uint8))
    assert run(capsys, str(path))[::2] == (
        1,
        f"error: {path}: is no recipe and no scene table; give rasters as --file NAME={path}\n",
    )


def test_a_pixel_size_of_nothing_is_told(write_raster, capsys):
    path = write_raster("a.tif", np.ones((9, 9), np.uint8))
    code, printed, _ = run(capsys, f"--file=a={path}", "--gsd=0", "--no-files", "--json", "--quiet")
    assert code == 1
    assert "expected a positive number" in json.loads(printed)["findings"][0]["message"]


def test_every_file_of_a_table_that_is_gone_is_told(write_raster, tmp_path, capsys):
    write_raster("a.tif", np.ones((40, 40), np.uint8))
    path = tmp_path / "t.csv"
    path.write_text("id,rgb,dsm\none,a.tif,gone1.tif\ntwo,gone2.tif,a.tif\nthree,a.tif,\n")
    code, printed, _ = run(capsys, str(path), "--json", "--quiet", "--no-files")
    errors = [
        f"{f['scene']} {f['message']}" for f in json.loads(printed)["findings"] if f["level"] == "error"
    ]
    assert code == 1
    assert [name for name in ("gone1.tif", "gone2.tif") if not any(name in line for line in errors)] == []
    assert not any("three" in line for line in errors)


def test_an_area_elsewhere_is_told(write_raster, tmp_path, capsys):
    write_raster("a.tif", np.ones((40, 40), np.uint8))
    path = tmp_path / "t.csv"
    there = '"POLYGON ((500000 5799960, 500020 5799960, 500020 5800000, 500000 5799960))"'
    away = '"POLYGON ((0 0, 1 0, 1 1, 0 0))"'
    rows = [f"one,train,a.tif,{there},EPSG:32633", f"two,val,a.tif,{away},EPSG:4326"]
    path.write_text("\n".join(["id,split,rgb,area,area_crs", *rows]))
    code, printed, _ = run(capsys, str(path), "--json", "--quiet", "--no-files")
    found = [(f["scene"], f["code"]) for f in json.loads(printed)["findings"] if f["level"] == "error"]
    assert code == 1
    assert found == [("two", "area")]


def test_every_file_of_a_recipes_table_that_is_gone_is_told(city, city_recipe, tmp_path, capsys):
    rows = ["id,split,rgb,dsm,label"]
    for scene, split in (("train_000", "train"), ("train_001", "train"), ("val_000", "val")):
        gone = "" if scene == "train_000" else "gone_"
        files = (f"rgb/{gone}{scene}.tif", f"dsm/{scene}.tif", f"labels/{scene}.tif")
        rows.append(",".join([scene, split, *(str(city / file) for file in files)]))
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    code, printed, _ = run(capsys, city_recipe, f"data.root={path}", "--json", "--quiet", "--no-files")
    told = [found["message"] for found in json.loads(printed)["findings"] if found["level"] == "error"]
    assert code == 1
    for name in ("gone_train_001.tif", "gone_val_000.tif"):
        assert any(name in line and "scenes cannot be split" not in line for line in told)
