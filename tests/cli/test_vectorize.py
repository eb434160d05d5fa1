"""rsseg vectorize: what it prints, and what it says where it cannot."""

import json

import geopandas
import numpy as np
import pytest

from rsseg import cli

PIXELS = np.array([[0, 0, 1, 255], [0, 2, 1, 1]], "u1")


@pytest.fixture
def classes(write_raster):
    return write_raster("s_classes.tif", PIXELS, nodata=255)


def test_json_is_what_the_layer_holds(classes, tmp_path, capsys):
    out = tmp_path / "s.gpkg"
    assert cli.run(["vectorize", str(classes), "--out", str(out), "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    content = json.loads(printed.out)
    assert (content["path"], content["layer"], content["areas"]) == (str(out), "s", "plane")
    assert (content["regions"], content["area_m2"], content["merged"]) == (3, 7.0, 0)
    table = geopandas.read_file(out, layer="s")
    assert [(c["class_id"], c["class"], c["regions"], c["area_m2"]) for c in content["classes"]] == [
        (0, "0", 1, 3.0),
        (1, "1", 1, 3.0),
        (2, "2", 1, 1.0),
    ]
    assert sorted(table["area_m2"]) == [1.0, 3.0, 3.0]


def test_the_table_and_progress(classes, tmp_path, capsys):
    out = tmp_path / "s.gpkg"
    assert (
        cli.run(["vectorize", str(classes), "--out", str(out), "--min-area", "2", "--simplify", "0.5"]) == 0
    )
    printed = capsys.readouterr()
    assert "polygons" in printed.out
    assert "1 regions below 2 m² went to their neighbours" in printed.out
    assert printed.out.splitlines()[-1] == str(out)
    assert printed.err == "s_classes.tif: 4/4\n"


def test_what_cannot_be_done_is_one_line(classes, tmp_path, write_raster, capsys):
    out = tmp_path / "s.gpkg"
    out.write_text("mine")
    heights = write_raster("dsm.tif", np.zeros((2, 2), "f4"))
    for given, expected in (
        ([classes, "--out", out], "exists already; pass --overwrite"),
        ([heights, "--out", tmp_path / "h.gpkg"], "expected a class map"),
        ([tmp_path / "no.tif", "--out", tmp_path / "h.gpkg"], "no such file"),
        ([classes, "--out", tmp_path / "no" / "h.gpkg"], "No such file or directory"),
        ([classes, "--out", tmp_path / "h.shp"], "ends in .gpkg"),
    ):
        assert cli.run(["vectorize", *map(str, given)]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert expected in printed.err
        assert printed.err.count("\n") == 1
    assert out.read_text() == "mine"
