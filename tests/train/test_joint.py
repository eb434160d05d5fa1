"""One run on two data sets, end to end: a simulated city, and scenes of a shape that only YAML describes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import rasterio
import torch
import yaml
from affine import Affine
from lightning.pytorch.callbacks import Callback

from rsseg import cli, preparation
from rsseg import recipe as recipes
from rsseg.checkpoint import JointModel, load_any, load_model
from rsseg.errors import CheckpointError, RecipeError, RssegError
from rsseg.geo import Window
from rsseg.header import FORMAT, JOINT_FORMAT, header_of, read_header
from rsseg.train import sets
from rsseg.train.fit import fit
from rsseg.train.task import SegmentationTask, average

SIDE = 96
BANDS = ["b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b8a", "b9", "b10", "b11", "b12"]
MODALITIES = {
    "s2_13": {"name": "s2_13", "role": "optical", "bands": BANDS, "nodata": 0},
    "s1_db": {"name": "s1_db", "role": "sar", "bands": ["vv", "vh"], "units": "db", "clip": [-50, 30]},
}
CLASSES = {
    "classes": [{"name": "water", "values": [1]}, {"name": "building", "values": [0]}],
    "ignored": [-1],
}


def described(folder: Path, splits: dict) -> Path:
    """Writes the YAML that a data set of the shape of Sen1Floods11 needs, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in MODALITIES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (folder / "water.yaml").write_text(yaml.safe_dump(CLASSES))
    content = {
        "description": "Sentinel-2, Sentinel-1 and hand labels of one chip each.",
        "modalities": {
            "s2_13": {"files": "{id}_S2Hand.tif", "modality": str(folder / "s2_13.yaml")},
            "s1_db": {"files": "{id}_S1Hand.tif", "modality": str(folder / "s1_db.yaml")},
        },
        "labels": {"files": "{id}_LabelHand.tif"},
        "classes": str(folder / "water.yaml"),
        **({"splits": splits} if splits else {}),
    }
    path = folder / "floods.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def write(path: Path, pixels: np.ndarray, **profile) -> None:
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=pixels.dtype,
        count=count,
        height=height,
        width=width,
        crs="EPSG:32630",
        transform=Affine(10, 0, 500_000 + profile.pop("east"), 0, -10, 4_000_000),
        **profile,
    ) as file:
        file.write(pixels)


@pytest.fixture(scope="module")
def floods(tmp_path_factory) -> Path:
    """Made-up scenes with 13 bands of Sentinel-2, VV and VH in dB, some of it missing, water in the west."""
    root, rng = tmp_path_factory.mktemp("floods"), np.random.default_rng(1)
    for number, name in enumerate(("train_0", "train_1", "val_0", "test_0")):
        water = np.arange(SIDE)[None, :] < rng.integers(30, 60, (SIDE, 1))
        level = np.where(water, 300, 2000)
        s2 = (level + rng.integers(-90, 90, (13, SIDE, SIDE))).astype("int16")
        s2[:, :8] = 0
        s1 = (np.where(water, -24, -9) + rng.normal(0, 2, (2, SIDE, SIDE))).astype("float32")
        s1[:, :, -8:] = np.nan
        label = water.astype("int16")[None]
        label[:, -5:] = -1
        east = {"east": 10 * SIDE * 2 * number}
        write(root / f"{name}_S2Hand.tif", s2, nodata=0, **east)
        write(root / f"{name}_S1Hand.tif", s1, nodata=float("nan"), **east)
        write(root / f"{name}_LabelHand.tif", label, **east)
    described(root / "yaml", {split: [f"{split}_*"] for split in ("train", "val", "test")})
    return root


@pytest.fixture(scope="module")
def content(city, floods) -> dict:
    part = {"tile": 64, "statistics_tiles": 4, "augment": "flip"}
    return {
        "name": "both",
        "data": [
            {
                "name": "city",
                "dataset": "simulated_city",
                "root": str(city),
                "modalities": ["rgb", "dsm"],
                "samples": 4,
            }
            | part,
            {
                "dataset": str(floods / "yaml" / "floods.yaml"),
                "root": str(floods),
                "modalities": ["s2_13", "s1_db"],
                "samples": 12,
            }
            | part,
        ],
        "model": {"method": "mean", "backbone": "mit_b0", "weights": None, "options": {"decoder_width": 16}},
        "train": {"epochs": 2, "batch": 4, "lr": 1e-3, "val_tiles": 3, "availability": "bernoulli"},
        "trainer": {"accelerator": "cpu"},
        "predict": {"batch": 2},
    }


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def finished(content, told, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("joint") / "whole"
    return fit(recipes.parse(content, "both"), out, say=told.append).parent


@pytest.fixture(scope="module")
def model(finished) -> JointModel:
    return load_any(finished / "best.safetensors")


def run(capsys, *argv) -> tuple[int, str, str]:
    code = cli.run([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_run_says_what_each_data_set_has(finished, told):
    assert "city: scenes: 3 train, 1 val" in told
    assert "floods: scenes: 2 train, 1 val" in told
    assert (
        told[-1] == "joint: batches are of city 36.6 % (4 tiles an epoch), floods 63.4 % (12 tiles an epoch)"
    )


def test_metrics_have_each_data_set_and_their_mean(finished, model):
    with (finished / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [4, 8]
    for row in rows:
        averages = [row["val/average/city"], row["val/average/floods"]]
        assert row["val/average"] == pytest.approx(sum(averages) / 2, abs=1e-5)
        for name, subsets in (
            ("city", ("rgb", "dsm", "rgb+dsm")),
            ("floods", ("s2_13", "s1_db", "s2_13+s1_db")),
        ):
            mious = [row[f"val/miou/{name}/{subset}"] for subset in subsets]
            assert row[f"val/average/{name}"] == pytest.approx(sum(mious) / 3, abs=1e-5)
    best = max(rows, key=lambda row: row["val/average"])
    assert model.training["averages"] == pytest.approx(
        {"city": best["val/average/city"], "floods": best["val/average/floods"]}, abs=1e-5
    )


def test_the_file_knows_all_and_each(finished, model):
    path = finished / "best.safetensors"
    assert read_header(path)["format"] == JOINT_FORMAT
    names = ("impervious", "building", "low_vegetation", "tree", "car", "water")
    assert model.facts.class_map.names == names
    assert list(model.facts.modalities) == ["rgb", "dsm", "s2_13", "s1_db"]
    floods = load_model(path, dataset="floods")
    assert floods.facts.class_map.names == ("water", "building")
    assert [entry.values for entry in floods.facts.class_map.classes] == [(1,), (0,)]
    assert floods.segmenter.known == [5, 1]
    assert set(floods.facts.statistics) == {"s2_13", "s1_db"}
    assert floods.training["gsd"] == 10
    assert load_model(path, dataset="city").training["gsd"] == 0.5
    assert header_of(path, "floods").recipe == floods.facts.recipe
    assert header_of(path, "floods").format == FORMAT
    assert floods.facts.recipe.data.tile == 64
    known = r"city \(rgb, dsm\), floods \(s2_13, s1_db\)"
    with pytest.raises(
        CheckpointError, match=rf"a model of several data sets; say by --dataset which: {known}$"
    ):
        load_model(path)
    with pytest.raises(CheckpointError, match=rf"knows no data set 'zion'; say by --dataset which: {known}$"):
        load_model(path, dataset="zion")
    with pytest.raises(
        CheckpointError, match=f"^data set 'zion': the model knows {known}; give one of them$"
    ):
        model.of("zion")


def test_what_was_learned_is_what_is_loaded(finished, model):
    again = load_any(finished / "best.safetensors").segmenter.state_dict()
    for name, tensor in model.segmenter.state_dict().items():
        assert torch.equal(tensor, again[name])


class StopError(Exception):
    """Stands for whatever ends a run."""


class Stopper(Callback):
    """Ends a run when its second epoch begins, and counts the epochs that have begun."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.begun.append(trainer.current_epoch)
        if self.begun == [0, 1]:
            raise StopError


def test_a_resumed_run_gives_the_same_file(content, finished, tmp_path):
    out, stopper = tmp_path / "run", Stopper()
    with pytest.raises(StopError):
        fit(recipes.parse(content, "both"), out, bars=(stopper,))
    moved = content | {"data": [{**part, "workers": 1} for part in content["data"]]}
    fit(recipes.parse(moved, "both"), out, resume=True, bars=(stopper,))
    assert stopper.begun == [0, 1, 1]
    assert (out / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()
    one, two = (load_any(folder / "best.safetensors").segmenter.state_dict() for folder in (finished, out))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture
def clip(content) -> dict:
    """The same run with a CLIP of two narrow layers and random weights."""
    open_clip.add_model_config(Path(__file__).parents[1] / "models" / "rsseg-tiny.json")
    options = {"decoder_width": 16, "clip": "rsseg-tiny", "clip_weights": None}
    return content | {"model": content["model"] | {"method": "clip_lora", "options": options}}


@pytest.mark.slow
def test_a_model_that_clip_guides_is_resumed_scored_and_used(clip, floods, tmp_path, capsys):
    whole, out, stopper = fit(recipes.parse(clip, "both"), tmp_path / "whole"), tmp_path / "run", Stopper()
    with pytest.raises(StopError):
        fit(recipes.parse(clip, "both"), out, bars=(stopper,))
    fit(recipes.parse(clip, "both"), out, resume=True, bars=(stopper,))
    states = [load_any(path).segmenter.state_dict() for path in (whole, out / "best.safetensors")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    code, shown, said = run(
        capsys, "evaluate", whole, "--out", tmp_path / "ev", "--no-report", "--quiet", "--json"
    )
    assert code == 0, said
    assert set(json.loads(shown)["averages"]) == {"city", "floods"}
    given = ("--file", f"s2_13={floods / 'test_0_S2Hand.tif'}", "--out", tmp_path / "maps", "--quiet")
    code, shown, said = run(capsys, "predict", whole, *given)
    assert code == 0, said
    assert colours(Path(shown.split()[0]))[0] <= {0, 1, 255}


@pytest.mark.slow
def test_every_rung_of_the_ladder_starts_training_from_the_same_weights(clip, tmp_path):
    """Also the one whose network is built a second time, to fetch weights."""
    starts = []

    class First(Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            state = pl_module.segmenter.state_dict()
            starts.append({k: v.clone() for k, v in state.items() if k.startswith(("backbone", "decoder"))})
            raise StopError

    for number, options in enumerate(({"clip": None, "aligned": False, "dsrm": False}, {})):
        changed = json.loads(json.dumps(clip))
        changed["model"]["options"] |= options
        with pytest.raises(StopError):
            fit(recipes.parse(changed, "both"), tmp_path / str(number), bars=(First(),))
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["data"][1].update(samples=13), "data.floods.samples = 13, but the run in"),
        (lambda c: c["data"].reverse(), r"data sets = \['floods', 'city'\], but"),
        (lambda c: c["train"].update(temperature=1), "train.temperature = 1.0, but the run in .* has 2.0"),
    ],
    ids=["a key", "the order", "temperature"],
)
def test_another_recipe_is_not_resumed(content, finished, tmp_path, change, words):
    out = Path(shutil.copytree(finished, tmp_path / "copy"))
    changed = json.loads(json.dumps(content))
    changed["data"][1]["name"] = "floods"
    change(changed)
    with pytest.raises(RecipeError, match=words):
        fit(recipes.parse(changed, "both"), out, resume=True)


def test_evaluate_scores_each_data_set_and_the_mean(finished, tmp_path, capsys):
    path, out = finished / "best.safetensors", tmp_path / "ev"
    code, shown, _ = run(capsys, "evaluate", path, "--out", out, "--no-report", "--quiet", "--json")
    assert code == 0
    found = json.loads(shown)
    assert sorted(item.name for item in out.iterdir()) == ["city", "floods", "joint.json"]
    for name in ("city", "floods"):
        one = json.loads((out / name / "scores.json").read_text())
        assert one == found["datasets"][name]
        assert found["averages"][name] == one["summary"]["removed"]["average"]
    assert found["datasets"]["floods"]["classes"] == ["water", "building"]
    assert found["average"] == pytest.approx(sum(found["averages"].values()) / 2, abs=1e-6)
    written = json.loads((out / "joint.json").read_text())
    assert written == {key: value for key, value in found.items() if key != "datasets"}
    code, _, said = run(capsys, "evaluate", path, "--out", out, "--no-report", "--quiet")
    assert (code, "joint.json: exists already" in said) == (1, True)
    code, shown, _ = run(
        capsys,
        "evaluate",
        path,
        "--dataset",
        "floods",
        "--out",
        tmp_path / "one",
        "--no-report",
        "--quiet",
        "--json",
    )
    assert json.loads(shown)["scenarios"] == found["datasets"]["floods"]["scenarios"]


def test_evaluate_takes_the_place_of_one_data_set(finished, floods, tmp_path, capsys):
    path, moved = finished / "best.safetensors", Path(shutil.copytree(floods, tmp_path / "moved"))
    common = ("--no-report", "--quiet", "--out", tmp_path / "ev")
    code, _, said = run(capsys, "evaluate", path, f"data.root={moved}", *common)
    assert code == 1
    assert "say data.NAME.key with one of city, floods, or choose by --dataset" in said
    code, _, said = run(capsys, "evaluate", path, f"data.zion.root={moved}", *common)
    assert (code, "no data set 'zion'; expected one of city, floods" in said) == (1, True)
    code, _, said = run(capsys, "evaluate", path, f"data.floods.root={moved}", *common)
    assert code == 0
    recipe = json.loads((tmp_path / "ev/floods/scores.json").read_text())["recipe"]
    assert recipe["data"]["root"] == str(moved)


def colours(path: Path) -> tuple[set[int], dict]:
    with rasterio.open(path) as file:
        return set(np.unique(file.read(1)).tolist()), file.colormap(1)


def test_predict_finds_out_which_data_set_a_scene_is_of(finished, city, floods, tmp_path, capsys):
    path = finished / "best.safetensors"
    files = ("--file", f"s2_13={floods / 'test_0_S2Hand.tif'}")
    code, shown, said = run(capsys, "predict", path, *files, "--out", tmp_path / "a", "--quiet")
    assert code == 0, said
    seen, palette = colours(Path(shown.split()[0]))
    assert seen <= {0, 1, 255}
    assert palette[0][:3] == load_model(path, dataset="floods").facts.class_map.classes[0].rgb
    for out, place in (("b", floods), ("c", city)):  # folders, by what the data sets' configs find in them
        code, shown, said = run(
            capsys, "predict", path, place, "--scene", "test*", "--out", tmp_path / out, "--quiet"
        )
        assert code == 0, said
        assert colours(Path(shown.split()[0]))[0] <= {0, 1, 2, 3, 4, 255}
    code, _, _ = run(
        capsys,
        "predict",
        path,
        floods,
        "--scene",
        "test*",
        "--dataset",
        "floods",
        "--out",
        tmp_path / "b",
        "--json",
    )
    assert code == 0  # the same job: nothing is mapped anew


def test_predict_reads_which_data_set_from_a_table(finished, city, floods, tmp_path, capsys):
    """Columns that the model has never seen are left out, as always."""
    path = finished / "best.safetensors"
    s2, other = floods / "test_0_S2Hand.tif", floods / "test_0_LabelHand.tif"
    (tmp_path / "floods.csv").write_text(f"id,s2_13,fuel\nx,{s2},{other}\n")
    rgb = next((city / "rgb").glob("*.tif"))
    (tmp_path / "city.csv").write_text(f"id,rgb\ny,{rgb}\n")
    code, shown, said = run(
        capsys, "predict", path, tmp_path / "floods.csv", "--out", tmp_path / "a", "--quiet"
    )
    assert code == 0, said
    assert colours(Path(shown.split()[0]))[0] <= {0, 1, 255}
    tables = (tmp_path / "floods.csv", tmp_path / "city.csv")
    code, _, said = run(capsys, "predict", path, *tables, "--out", tmp_path / "b", "--quiet")
    assert (code, "of none of the model's data sets" in said) == (1, True)


def test_predict_refuses_a_scene_of_no_data_set(finished, city, floods, tmp_path, capsys):
    path, out = finished / "best.safetensors", ("--out", tmp_path / "out", "--quiet")
    known = "city (rgb, dsm), floods (s2_13, s1_db)"
    rgb = next((city / "rgb").glob("*.tif"))
    for files in (["sar=x.tif"], [f"rgb={rgb}", f"s1_db={floods / 'test_0_S1Hand.tif'}"]):
        words = [word for item in files for word in ("--file", item)]
        code, _, said = run(capsys, "predict", path, *words, *out)
        assert code == 1
        assert f"of none of the model's data sets; it knows {known}" in said
    (tmp_path / "empty").mkdir()
    code, _, said = run(capsys, "predict", path, tmp_path / "empty", *out)
    assert (code, f"of none of the model's data sets; it knows {known}" in said) == (1, True)
    code, _, said = run(capsys, "predict", path, city, "--dataset", "nowhere", *out)
    assert (code, f"or one of the model: {known}" in said) == (1, True)
    assert not (tmp_path / "out").exists()


def test_other_commands_choose_a_data_set(finished, tmp_path, capsys):
    path = finished / "best.safetensors"
    code, _, said = run(capsys, "export", path, "--to", "torch", "--out", tmp_path / "x.pt2", "--quiet")
    assert (code, "a model of several data sets; say by --dataset which" in said) == (1, True)
    place = tmp_path / "model.json"
    code, shown, _ = run(
        capsys, "export", path, "--dataset", "floods", "--to", "stac", "--out", place, "--quiet", "--json"
    )
    assert code == 0
    described = json.loads(place.read_text())["properties"]
    assert [entry["name"] for entry in described["mlm:input"]] == ["s2_13", "s1_db"]
    assert described["mlm:output"][0]["result"]["shape"][1] == 2
    code, shown, _ = run(capsys, "info", path)
    assert "data set city" in shown
    assert "data set floods" in shown
    code, shown, _ = run(capsys, "info", path, "--dataset", "floods", "--json")
    assert [entry["name"] for entry in json.loads(shown)["class_map"]["classes"]] == ["water", "building"]


def test_stats_and_check_go_through_all(finished, tmp_path, capsys):
    recipe = finished / "recipe.yaml"
    code, shown, said = run(capsys, "stats", recipe, "--json", "--quiet")
    assert code == 0, said
    assert set(json.loads(shown)["datasets"]) == {"city", "floods"}
    code, shown, _ = run(capsys, "stats", recipe, "--dataset", "floods", "--json", "--quiet")
    assert set(json.loads(shown)["datasets"]["floods"]["modalities"]) == {"s2_13", "s1_db"}
    code, shown, said = run(capsys, "check", recipe, "--out", tmp_path, "--quick", "--json", "--quiet")
    assert set(json.loads(shown)["datasets"]) == {"city", "floods"}
    assert (tmp_path / "floods" / "check.html").is_file()
    code, _, said = run(capsys, "stats", recipe, "--dataset", "zion", "--quiet")
    assert (code, "data set 'zion': not in recipe both; it has city, floods" in said) == (1, True)


def test_one_name_is_one_description(content, tmp_path):
    wrong = json.loads(json.dumps(content))
    folder = tmp_path / "yaml"
    described(folder, {})
    text = (folder / "floods.yaml").read_text().replace("s2_13", "rgb")
    (folder / "other.yaml").write_text(text)
    (folder / "rgb.yaml").write_text(yaml.safe_dump(MODALITIES["s2_13"] | {"name": "rgb"}))
    wrong["data"][1] |= {
        "name": "floods",
        "dataset": str(folder / "other.yaml"),
        "modalities": ["rgb", "s1_db"],
    }
    with pytest.raises(
        RecipeError, match=r"^data: modality rgb is optical \(red, green, blue; dn\) in city, but"
    ):
        fit(recipes.parse(wrong, "both"), tmp_path / "out")


def test_nothing_is_written_where_a_tile_does_not_fit(content, tmp_path):
    wrong = json.loads(json.dumps(content))
    wrong["data"][0]["tile"] = 80
    with pytest.raises(RssegError, match="tile 80 is not a multiple"):
        fit(recipes.parse(wrong, "both"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_real_chip_is_a_fourth_data_set_by_yaml_alone(real_data, city, tmp_path):
    """Beside the three of the shipped recipe, its files as they come."""
    chip = real_data / "sen1floods11_chip"
    if not chip.is_dir():
        pytest.skip(f"no {chip}")
    shipped = yaml.safe_load((Path(__file__).parents[2] / "recipes/universal.yaml").read_text())
    shipped["data"].append(
        {
            "dataset": str(described(tmp_path / "yaml", {})),
            "root": str(chip),
            "cache": str(tmp_path / "cache"),
            "modalities": ["s2_13", "s1_db"],
            "split": "blocks",
            "block": 128,
            "guard": 0,
            "tile": 128,
            "sampler": "grid",
        }
    )
    shipped["data"][2]["root"] = str(city)
    recipe = recipes.parse(shipped, "universal")
    assert recipe.names == ("zion", "ombria", "city", "floods")
    one = recipe.of("floods")
    modalities = preparation.modalities_of(one.data)
    scenes = preparation.open_splits(one, modalities, preparation.class_map_of(one.data))
    pixels, valid = scenes["train"][0].raw("s2_13", Window(0, 0, 128, 128))
    assert pixels.shape == (13, 128, 128)
    assert valid.any()


@pytest.mark.slow
def test_the_real_chip_is_learned_beside_another_data_set(real_data, content, tmp_path):
    """A few steps: that its 13 bands, its missing pixels and its void labels pass."""
    chip = real_data / "sen1floods11_chip"
    if not chip.is_dir():
        pytest.skip(f"no {chip}")
    more = {
        "dataset": str(described(tmp_path / "yaml", {})),
        "root": str(chip),
        "cache": str(tmp_path / "cache"),
        "split": "blocks",
        "block": 128,
        "guard": 0,
    }
    recipe = recipes.parse(content | {"data": [content["data"][0], content["data"][1] | more]}, "both")
    path = fit(recipe, tmp_path / "run")
    assert set(load_any(path).training["averages"]) == {"city", "floods"}


def test_the_averages_are_those_of_the_weights_that_were_saved(content, finished, model):
    """Averaged weights are swapped in for validation; views must look at them too."""
    facts = model.facts
    scenes = sets.opened(facts)
    data = sets.batches(facts, scenes, sets.read(facts, scenes, lambda line: None, lambda *done: None)[1])
    known = {name: tuple(one.modalities) for name, one in facts.sets.items()}
    task = SegmentationTask(model.segmenter, known, facts.recipe.train, facts.views(model.segmenter)).eval()
    with torch.no_grad():
        for batch in data.val_dataloader():
            task.validation_step(batch, 0)
    assert {name: average(found) for name, found in task.scores().items()} == model.training["averages"]


def test_several_devices_need_to_be_told_of_what_a_step_leaves_out(content, tmp_path):
    several = content | {"trainer": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}}
    words = r"^trainer.strategy: 'ddp'; several devices need ddp_find_unused_parameters_true in a joint run$"
    with pytest.raises(RecipeError, match=words):
        fit(recipes.parse(several, "both"), tmp_path / "out")


GO = """
import sys
from pathlib import Path

from rsseg import recipe
from rsseg.train import sets
from rsseg.train.fit import fit
from rsseg.train.task import SegmentationTask, average

if __name__ == "__main__":
    fit(recipe.load(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes_are_at_the_same_data_set(content, finished, tmp_path):
    """A step that they did not share would wait for ever, or mix class ids."""
    several = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_find_unused_parameters_true"}
    recipe = content | {"trainer": several, "train": content["train"] | {"batch": 2}}
    (tmp_path / "go.py").write_text(GO)
    (tmp_path / "two.yaml").write_text(recipes.dump(recipes.parse(recipe, "two")))
    command = [sys.executable, "go.py", "two.yaml", "two"]
    done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "two")[-1]["step"] == rows_of(finished)[-1]["step"]
    assert set(load_any(tmp_path / "two" / "best.safetensors").training["averages"]) == {"city", "floods"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
