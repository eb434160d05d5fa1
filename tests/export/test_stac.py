"""STAC of maps and models: valid by pystac, true to the files, and safe with any name."""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.crs import CRS
from shapely.geometry import shape

from rsseg.checkpoint import load_model, save_model
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.errors import GridError, RasterError, RssegError
from rsseg.export import links, mlm, place, stac
from rsseg.raster.handles import quiet
from rsseg.raster.write import safe_stem

HOSTILE = (
    "<script>alert(1)</script>",
    "quote\"s and 'these'",
    "../../etc/passwd",
    "a" * 300,
    "Straße 7/草地 🌿",
    "%2e%2e%2f",
    "new\nline\0",
    "\udcff half",
    "collection",
    ".",
)
TAGS = {
    "RSSEG_VERSION": "0.1.0",
    "RSSEG_RECIPE": "mini",
    "RSSEG_METHOD": "sgma",
    "RSSEG_MODALITIES": "rgb,dsm",
    "RSSEG_DATE": "2026-11-21T07:38:00+00:00",
    "RSSEG_MODEL": "abc123",
}
CLASSES = ClassMap(
    classes=tuple(
        LandClass(name=name, values=(k,), colour=colour)
        for k, (name, colour) in enumerate(
            (("low plants", "#00ff7f"), ("low_plants", "#0000ff"), ("草", "#ABCDEF"))
        )
    )
)
UTM = {"crs": CRS.from_epsg(32633), "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)}


def write_maps(out: Path, scene_id: str, georeference=UTM, size=(30, 40), **tags) -> list[Path]:
    """Writes a class map and a confidence map as prediction does."""
    out.mkdir(exist_ok=True)
    paths = []
    for kind in ("classes", "confidence"):
        path = out / f"{safe_stem(scene_id)}_{kind}.tif"
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, **georeference}
        with quiet(), rasterio.open(path, "w", height=size[0], width=size[1], **profile) as file:
            file.write(np.zeros((1, *size), "u1"))
            file.update_tags(**{**TAGS, **tags})
            file.set_band_description(1, {"classes": "class"}.get(kind, kind))
            if kind == "confidence":
                file.scales, file.offsets = (1 / 254,), (0,)
        paths.append(path)
    return paths


def scene(scene_id: str, **files) -> Scene:
    return Scene(
        scene_id, {name: Source((path,)) for name, path in files.items()} or {"rgb": Source((Path("a.tif"),))}
    )


def table(*scenes: Scene) -> Scenes:
    return Scenes(scenes, ("rgb", "dsm", "s1"))


def strict(path: Path) -> dict:
    """Reads JSON as other languages do: UTF-8, no halves of surrogate pairs, no NaN."""

    def refuse(word):
        raise AssertionError(word)

    content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    json.dumps(content, ensure_ascii=False).encode("utf-8")
    return content


def test_an_item_says_what_the_files_say(tmp_path, validated):
    out = tmp_path / "maps"
    paths = write_maps(out, "a")
    (out / "a_classes.qml").write_text("<qgis/>")
    files = {
        "rgb": tmp_path / "in put" / "a.tif",
        "dsm": "/vsis3/bucket/a.tif",
        "s1": tmp_path / "unused.tif",
    }
    written = stac.write_items(out, table(scene("a", **files)), CLASSES, model=tmp_path / "best.safetensors")
    assert [path.name for path in written] == ["a.json", "collection.json"]
    content = strict(out / "a.json")
    validated(content)
    facts = content["properties"]
    with rasterio.open(paths[0]) as file:
        assert facts["proj:code"] == file.crs.to_string() == "EPSG:32633"
        assert facts["proj:shape"] == list(file.shape)
        assert facts["proj:transform"] == list(file.transform)[:6]
        assert facts["proj:bbox"] == list(file.bounds)
        inside = shape(content["geometry"])
        west, south, east, north = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    np.testing.assert_allclose(inside.bounds, (west, south, east, north), atol=2e-7)
    np.testing.assert_allclose(content["bbox"], inside.bounds)
    assert inside.exterior.is_ccw
    assert (facts["datetime"], facts["start_datetime"]) == (None, "1900-01-01T00:00:00Z")
    assert facts["end_datetime"] == facts["created"] == "2026-11-21T07:38:00Z"
    assert facts["processing:software"] == {"rsseg": "0.1.0"}
    assert facts["rsseg:modalities"] == ["rgb", "dsm"]
    assert facts["rsseg:model"] == "abc123"
    assets = content["assets"]
    assert set(assets) == {"classes", "classes-qml", "confidence"}
    for asset in assets.values():
        path = out / unquote(asset["href"])
        assert asset["file:size"] == path.stat().st_size
        assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    band = {"data_type": "uint8", "nodata": 255, "raster:sampling": "area", "raster:spatial_resolution": 0.5}
    assert assets["classes"]["bands"] == [{"name": "class", **band}]
    assert assets["confidence"]["bands"] == [
        {"name": "confidence", **band, "raster:scale": 1 / 254, "raster:offset": 0}
    ]
    assert [
        (c["value"], c["name"], c["title"], c["color_hint"])
        for c in assets["classes"]["classification:classes"]
    ] == [
        (0, "low_plants", "low plants", "00FF7F"),
        (1, "low_plants_1", "low_plants", "0000FF"),
        (2, "class_2", "草", "ABCDEF"),
    ]
    found = [(link["rel"], link["href"], link.get("title")) for link in content["links"]]
    assert found == [
        ("root", "./collection.json", None),
        ("derived_from", "../in%20put/a.tif", "rgb"),
        ("derived_from", "s3://bucket/a.tif", "dsm"),
        ("processing-expression", "../best.safetensors", "model"),
        ("collection", "./collection.json", None),
    ]


def test_a_batch_is_a_catalogue_that_pystac_walks(tmp_path, validated):
    out = tmp_path / "maps"
    for name in ("a", "b", "collection"):
        write_maps(out, name)
    stac.write_items(out, table(scene("a"), scene("unmapped")), CLASSES)
    (out / "broken.json").write_text("{")
    (out / "other.json").write_text('{"type": "Feature"}')
    written = stac.write_items(out, table(scene("b"), scene("collection")), CLASSES)
    assert [path.name for path in written] == ["b.json", "collection~-item.json", "collection.json"]
    content = strict(out / "collection.json")
    validated(content)
    listed = [link["href"] for link in content["links"] if link["rel"] == "item"]
    assert listed == ["./a.json", "./b.json", "./collection~-item.json"]
    assert content["extent"]["temporal"]["interval"] == [[None, "2026-11-21T07:38:00Z"]]
    assert content["extent"]["spatial"]["bbox"] == [strict(out / "a.json")["bbox"]]
    walked = pystac.read_file(str(out / "collection.json"))
    items = [link.resolve_stac_object(walked).target for link in walked.get_links("item")[:2]]
    assert [item.id for item in items] == ["a", "b"]
    for item in items:
        validated(item.to_dict(include_self_link=False))
        assert Path(item.assets["classes"].get_absolute_href()).samefile(out / f"{item.id}_classes.tif")
        assert item.get_collection() is walked


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_scene_ids_stay_in_the_folder_and_break_nothing(name, tmp_path, validated):
    out = tmp_path / "deep" / "maps"
    out.parent.mkdir()
    write_maps(out, name, RSSEG_METHOD='<b>"&', RSSEG_RECIPE="../x")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    item, collection = stac.write_items(out, table(scene(name, rgb=Path(f"in/{name[:50]}.tif"))), CLASSES)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {item, collection}
    assert item.parent == collection.parent == out
    assert item != collection
    content = strict(item)
    validated(content)
    validated(strict(collection))
    assert content["properties"]["title"] == name.encode("utf-8", "replace").decode()
    for asset in content["assets"].values():
        href = asset["href"]
        assert href.startswith("./")
        assert set(href[2:]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~%")
        assert (out / unquote(href)).is_file()
        assert "/" not in unquote(href[2:])
    (link,) = [one["href"] for one in strict(collection)["links"] if one["rel"] == "item"]
    assert (out / unquote(link)).samefile(item)
    (walked,) = pystac.read_file(str(collection)).get_items()
    assert walked.id == content["id"]


def test_maps_that_an_older_job_left_are_passed_over(tmp_path, validated):
    out = tmp_path / "maps"
    maps = write_maps(out, "a")
    left = write_maps(out, "b", size=(3, 4))
    left[1].rename(out / "a_probabilities.tif")
    item, _ = stac.write_items(out, table(scene("a"), scene("b")), CLASSES, maps={"a": maps})
    validated(strict(item))
    assert set(strict(item)["assets"]) == {"classes", "confidence"}
    assert not (out / "b.json").exists()


def test_times_in_items_that_someone_corrected_by_hand(tmp_path, validated):
    out = tmp_path / "maps"
    for name in "abc":
        write_maps(out, name)
    stac.write_items(out, table(scene("a"), scene("b")), CLASSES)
    for name, when in (("a", {"datetime": "2020-06-01T10:00:00"}), ("b", {})):
        content = strict(out / f"{name}.json")
        kept = {key: text for key, text in content["properties"].items() if "datetime" not in key}
        (out / f"{name}.json").write_text(json.dumps({**content, "properties": {**kept, **when}}))
    stac.write_items(out, table(scene("c")), CLASSES)
    validated(strict(out / "collection.json"))


def test_hostile_class_names(tmp_path, validated):
    names = ["</script>", "a b", "a_b", "a/b", "\N{GRINNING FACE}", "é" * 200, "x" * 200, "\0"]
    class_map = ClassMap(
        classes=tuple(LandClass(name=n, values=(k,), colour="#010203") for k, n in enumerate(names))
    )
    out = tmp_path / "maps"
    write_maps(out, "a")
    stac.write_items(out, table(scene("a")), class_map)
    validated(strict(out / "a.json"))
    validated(strict(out / "collection.json"))
    found = strict(out / "a.json")["assets"]["classes"]["classification:classes"]
    assert [entry["title"] for entry in found] == names
    assert len({entry["name"] for entry in found}) == len(names)


@given(st.lists(st.text("ab _0-é", min_size=1, max_size=4), min_size=1, max_size=30, unique=True))
def test_machine_names_of_classes_are_different(names):
    class_map = ClassMap(
        classes=tuple(LandClass(name=n, values=(k,), colour="#010203") for k, n in enumerate(names))
    )
    found = stac.classes(class_map)
    assert [(entry["value"], entry["title"]) for entry in found] == list(enumerate(names))
    assert len({entry["name"] for entry in found}) == len(names)


def test_machine_names_that_were_made_different_take_no_other_class():
    names = ["a", "a_2", "a!", "class_4", "草", "a_2_5", "a_2!"]
    class_map = ClassMap(
        classes=tuple(LandClass(name=n, values=(k,), colour="#010203") for k, n in enumerate(names))
    )
    found = stac.classes(class_map)
    assert [entry["title"] for entry in found] == names
    assert len({entry["name"] for entry in found}) == len(names)


def test_without_georeferencing_there_is_no_place_and_it_is_said(tmp_path, validated):
    out = tmp_path / "maps"
    write_maps(out, "a", georeference={})
    stac.write_items(out, table(scene("a")), CLASSES)
    content = strict(out / "a.json")
    validated(content)
    assert content["geometry"] is None
    assert "bbox" not in content
    assert "without georeferencing" in content["properties"]["description"]
    assert content["properties"]["proj:code"] is None
    collection = strict(out / "collection.json")
    validated(collection)
    assert collection["extent"]["spatial"]["bbox"] == [[-180, -90, 180, 90]]
    assert "1 of them without georeferencing" in collection["description"]


def test_a_crs_without_a_code_is_written_out(tmp_path, validated):
    crs = CRS.from_proj4("+proj=laea +lat_0=50 +lon_0=9 +x_0=12 +y_0=0 +datum=WGS84 +units=m")
    write_maps(tmp_path / "maps", "a", georeference={"crs": crs, "transform": Affine(1, 0, 0, 0, -1, 0)})
    stac.write_items(tmp_path / "maps", table(scene("a")), CLASSES)
    content = strict(tmp_path / "maps/a.json")
    validated(content)
    assert content["properties"]["proj:code"] is None
    assert CRS.from_wkt(content["properties"]["proj:wkt2"]) == crs


def test_a_known_time_is_told(tmp_path, validated):
    paths = write_maps(tmp_path / "maps", "a")
    begin, end = datetime(2024, 5, 1, 10, tzinfo=UTC), datetime(2024, 5, 1, 11, tzinfo=UTC)
    moment = stac.item(paths, scene("a"), CLASSES, taken=(begin, begin)).to_dict()
    validated(moment)
    assert moment["properties"]["datetime"] == "2024-05-01T10:00:00Z"
    assert "start_datetime" not in moment["properties"]
    stac.write_items(tmp_path / "maps", table(scene("a")), CLASSES, taken={"a": (begin, end)})
    content = strict(tmp_path / "maps/a.json")
    validated(content)
    assert content["properties"]["start_datetime"] == "2024-05-01T10:00:00Z"
    interval = strict(tmp_path / "maps/collection.json")["extent"]["temporal"]["interval"]
    assert interval == [["2024-05-01T10:00:00Z", "2024-05-01T11:00:00Z"]]


def test_an_empty_folder_has_a_valid_collection(tmp_path, validated):
    (path,) = stac.write_items(tmp_path, table(), CLASSES)
    validated(strict(path))


PLACES = st.one_of(
    st.tuples(
        st.sampled_from([32601, 32660, 32733]), st.floats(2e5, 8e5), st.floats(1e6, 9e6), st.floats(1, 200)
    ),
    st.tuples(st.just(4326), st.floats(-180, 185), st.floats(-70, 70), st.floats(1e-5, 0.05)),
    st.tuples(st.sampled_from([3413, 3031]), *2 * [st.floats(1.5e6, 3e6)], st.floats(1, 1e3)),
    st.tuples(st.sampled_from([3413, 3031]), *2 * [st.floats(-3e6, -1.5e6)], st.floats(1, 1e3)),
)


@settings(max_examples=60, deadline=None)
@given(PLACES, st.integers(1, 200), st.integers(1, 200))
def test_a_footprint_holds_every_pixel_wherever_it_lies(where, height, width):
    epsg, x, y, pixel = where
    grid = GeoBox((height, width), Affine(pixel, 0, x, 0, -pixel, y), f"EPSG:{epsg}")
    outline = place.footprint(grid)
    assert outline.is_valid
    west, _, east, _ = outline.bounds
    assert west >= -180
    assert east <= 180
    rows, cols = np.meshgrid(np.linspace(0, height, 7), np.linspace(0, width, 7))
    xs, ys = grid.affine @ (cols.ravel(), rows.ravel())
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(xs, ys)
    lon = (lon + 180) % 360 - 180
    points = shapely.points(lon, lat)
    # edges bend between the points of a footprint
    slack = 1e-6 + 1e-3 * max(height, width) * (pixel if epsg == 4326 else pixel / 111_000)
    assert (shapely.distance(points, outline) <= slack + 360 * (np.abs(lon) > 180 - slack)).all()
    box = place.bounds(outline)
    span = (box[2] - box[0]) % 360 or 360
    assert ((lon - box[0] + slack) % 360 <= span + 2 * slack).all()
    geometry = place.geojson(outline)
    assert shape(geometry).equals(outline)


def test_a_map_across_the_antimeridian():
    grid = GeoBox((100, 100), Affine(0.01, 0, 179.5, 0, -0.01, 1), "EPSG:4326")
    outline = place.footprint(grid)
    assert place.geojson(outline)["type"] == "MultiPolygon"
    np.testing.assert_allclose(place.bounds(outline), (179.5, 0, -179.5, 1))
    assert outline.area == pytest.approx(1)


def test_a_map_around_a_pole():
    grid = GeoBox((100, 100), Affine(10_000, 0, -500_000, 0, -10_000, 500_000), "EPSG:3413")
    west, south, east, north = place.footprint(grid).bounds
    assert (west, east, north) == (-180, 180, 90)
    assert 80 < south < 85


@pytest.mark.parametrize("corner", [(0, 1), (0, 0), (-0.5, 0.5), (1e-7, 0), (3, 3)])
def test_a_tiny_map_at_a_pole_is_no_accident(corner):
    grid = GeoBox((1, 2), Affine(1, 0, corner[0], 0, -1, corner[1]), "EPSG:3413")
    outline = place.footprint(grid)
    assert outline.is_valid
    assert not outline.is_empty
    assert outline.bounds[3] > 89.99
    assert shape(place.geojson(outline)).is_valid


BOXES = st.tuples(st.integers(-180, 179), st.integers(-90, 0), st.integers(0, 120), st.integers(1, 90))


@given(st.lists(BOXES, min_size=1, max_size=5))
@example([(0, 0, 0, 1), (-1, 0, 2, 1), (179, 0, 1, 1)])  # the last one from the west reaches over the first
def test_bounds_around_bounds_hold_them_all(boxes):
    given_boxes = [(w, s, (w + span + 180) % 360 - 180, n) for w, s, span, n in boxes]
    west, south, east, north = place.around(given_boxes)
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    whole = east - west == 360
    for w, s, span, n in boxes:
        assert south <= s
        assert n <= north
        assert whole or (w - west) % 360 + span <= (east - west) % 360


def test_links_hold_no_secrets(tmp_path):
    def found(name):
        return links.reference(name, tmp_path)

    assert found("/vsicurl/https://me:pass@host/a.tif?X-Amz-Signature=1#x") == "https://host/a.tif"
    assert found("/vsicurl?max_retry=2&url=https%3A%2F%2Fhost%2Fa.tif%3Fsig%3D1") == "https://host/a.tif"
    assert found("/vsicurl/https://host/a%20b.tif") == "https://host/a%20b.tif"
    assert found("/vsigs/bucket/a b.tif") == "gs://bucket/a%20b.tif"
    assert found("/vsizip//secret/a.zip/b.tif") is None
    assert found("/vsimem/a.tif") is None
    assert found(tmp_path / "a:b?c#d%.tif") == "./a%3Ab%3Fc%23d%25.tif"
    assert found(tmp_path.parent / "x.tif") == "../x.tif"


def test_a_link_to_the_models_item_where_there_is_one(tmp_path):
    paths = write_maps(tmp_path / "maps", "a")
    (tmp_path / "best.json").write_text("{}")
    found = stac.item(paths, scene("a"), CLASSES, model=tmp_path / "best.safetensors")
    (link,) = found.get_links("processing-expression")
    assert (link.target, link.media_type) == ("../best.json", "application/geo+json")


def test_maps_that_are_not_alike_are_refused(tmp_path):
    one, other = write_maps(tmp_path / "a", "a"), write_maps(tmp_path / "b", "a", size=(3, 4))
    with pytest.raises(GridError, match="predict the scene again"):
        stac.item([one[0], other[1]], scene("a"), CLASSES)
    with pytest.raises(RasterError, match="has no maps"):
        stac.item([], scene("a"), CLASSES)
    one[0].write_bytes(b"no map")
    with pytest.raises(RasterError, match="cannot be read"):
        stac.item(one, scene("a"), CLASSES)


def test_without_the_extra_it_says_how_to_get_it(tmp_path, monkeypatch):
    paths = write_maps(tmp_path, "a")
    monkeypatch.setitem(sys.modules, "pystac", None)
    with pytest.raises(RssegError, match=r"pip install 'rsseg\[stac\]'"):
        stac.item(paths, scene("a"), CLASSES)


@pytest.fixture
def model_file(small, tmp_path) -> Path:
    model, path = small(), tmp_path / "runs" / "best.safetensors"
    path.parent.mkdir()
    save_model(path, model.facts, model.segmenter, {"epoch": 2, "average": 0.25})
    return path


def test_a_model_is_an_item_of_mlm(model_file, small, tmp_path, validated):
    out = tmp_path / "best.json"
    mlm.save_item(model_file, out)
    content = strict(out)
    validated(content)
    facts = content["properties"]
    assert facts["mlm:tasks"] == ["semantic-segmentation"]
    assert facts["mlm:architecture"] == "mean (mit_b0)"
    assert facts["mlm:total_parameters"] == sum(p.numel() for p in small().segmenter.parameters())
    inputs = {entry["name"]: entry for entry in facts["mlm:input"]}
    assert list(inputs) == ["rgb", "dsm", "s1"]
    assert inputs["s1"]["value_scaling"] == [
        {"type": "z-score", "mean": 10, "stddev": 3},
        {"type": "z-score", "mean": 11, "stddev": 3},
    ]
    assert inputs["s1"]["input"]["shape"] == [-1, 2, 64, 64]
    assert inputs["rgb"]["pre_processing_function"] is None
    assert inputs["s1"]["pre_processing_function"]["expression"]["clip"] == [-30, 5]
    assert inputs["dsm"]["pre_processing_function"]["expression"]["relative"] == "window"
    (output,) = facts["mlm:output"]
    assert [entry["description"] for entry in output["classification:classes"]] == [
        "low plants",
        "water",
        "roof",
        "road",
    ]
    assert output["result"]["shape"] == [-1, 4, 64, 64]
    assert facts["mlm:hyperparameters"]["rsseg.optional"] == ["rgb", "dsm", "s1"]
    assert facts["mlm:hyperparameters"]["rsseg.training"] == {"epoch": 2, "average": 0.25}
    asset = content["assets"]["model"]
    assert asset["href"] == "./runs/best.safetensors"
    assert asset["mlm:artifact_type"] == "safetensors.torch.save_file"
    assert asset["file:checksum"] == "1220" + hashlib.sha256(model_file.read_bytes()).hexdigest()
    with pytest.raises(RssegError, match="exists already"):
        mlm.save_item(model_file, out)


def test_buffers_of_a_network_are_no_parameters(real, tmp_path):
    model, path = real("early", "resnet18"), tmp_path / "best.safetensors"
    save_model(path, model.facts, model.segmenter, {})
    found = mlm.model_item(path, tmp_path).properties["mlm:total_parameters"]
    assert found == sum(p.numel() for p in load_model(path).segmenter.parameters())


def test_bands_of_two_modalities_with_one_name_stay_apart(model_file):
    header = mlm.header_of(model_file)
    twice = header.modalities[1].model_copy(update={"bands": ("red",)})
    changed = header.model_copy(update={"modalities": (header.modalities[0], twice)})
    assert mlm._band_names(changed) == {"rgb": ["rgb-red", "green", "blue"], "dsm": ["dsm-red"]}


def test_what_is_not_valid_is_noticed(tmp_path, validated):
    """The schemas would be worth nothing if they took anything."""
    paths = write_maps(tmp_path / "maps", "a")
    good = stac.item(paths, scene("a"), CLASSES).to_dict()
    validated(good)
    for change in (
        lambda c: c["properties"].update({"proj:epsg": 32633}),
        lambda c: c["properties"].update({"processing:software": "rsseg"}),
        lambda c: c["assets"]["classes"].update({"file:checksum": "XYZ"}),
        lambda c: c["assets"]["classes"]["bands"][0].update({"raster:sampling": "pixel"}),
        lambda c: c["assets"]["classes"]["classification:classes"][0].update({"name": "low plants"}),
        lambda c: c["properties"].pop("start_datetime"),
        lambda c: c.pop("bbox"),
    ):
        content = json.loads(json.dumps(good))
        change(content)
        with pytest.raises(pystac.STACValidationError):
            validated(content)
