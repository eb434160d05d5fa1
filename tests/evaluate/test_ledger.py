"""OUT/blocks: what is finished is never computed again, and never mixed with anything else."""

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rsseg.errors import RssegError
from rsseg.evaluate import ledger
from rsseg.evaluate.ledger import Ledger
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario

INPUTS = {
    "model": "abc",
    "seed": 0,
    "rules": {"eroded": 0, "without": ("clutter",)},
    "scenes": [["one", 1, 2]],
}
NOISE = Scenario("noise", ("rgb", "dsm"), 0.05, "low")


def result(scenario=NOISE, seed=0) -> Result:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 60_000, (3, 4, 5), generator=generator)
    reliability = torch.rand(15, 3, dtype=torch.float64, generator=generator)
    return Result(scenario, (("ö/../x", 0, 256), ("ö/../x", 256, 0), ("b", 0, 0)), blocks, reliability)


def test_what_is_recorded_comes_back_to_the_last_bit(tmp_path):
    kept, made = Ledger(tmp_path / "new", INPUTS), result()
    assert not (tmp_path / "new").exists()  # nothing is made before there is something to keep
    assert kept.take(NOISE) is None
    assert not kept.begun
    kept.record(made)
    again = Ledger(tmp_path / "new", INPUTS)
    again.require_same()
    found = again.take(NOISE)
    assert again.begun
    assert (found.scenario, found.places) == (made.scenario, made.places)
    assert torch.equal(found.blocks, made.blocks)
    assert torch.equal(found.reliability, made.reliability)
    assert again.take(replace(NOISE, variant="mid")) is None
    assert {path.name for path in kept.folder.iterdir()} == {"inputs.json", f"{NOISE.key}.npz"}


CHANGES = {
    "model": {"model": "abd"},
    "seed": {"seed": 1},
    "rules": {"rules": {"eroded": 3, "without": ()}},
    "scenes": {"scenes": [["one", 1, 3]]},
    "seed, extra": {"seed": 1, "extra": True},
}


@pytest.mark.parametrize("names", CHANGES)
def test_other_inputs_are_refused_in_one_line(names, tmp_path):
    Ledger(tmp_path, INPUTS).record(result())
    changed = Ledger(tmp_path, INPUTS | CHANGES[names])
    with pytest.raises(RssegError, match=rf"blocks: begun with other {names}; .* use --overwrite") as caught:
        changed.require_same()
    assert "\n" not in str(caught.value)
    with pytest.raises(RssegError, match="made from other inputs; delete it"):
        changed.take(NOISE)


def test_another_definition_of_a_scenario_is_refused(tmp_path):
    kept = Ledger(tmp_path, INPUTS)
    kept.record(result())
    other = Scenario("noise", ("rgb",), 0.05, "low")
    (kept.folder / f"{NOISE.key}.npz").rename(kept.folder / f"{other.key}.npz")
    with pytest.raises(RssegError, match="made from other inputs"):
        kept.take(other)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def pickled(path: Path) -> None:
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **content | {"scenes": np.array([{"a": 1}] * 3, dtype=object)})


def fewer_places(path: Path) -> None:
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **content | {key: content[key][:2] for key in ("scenes", "rows", "cols")})


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no archive")


def flipped(path: Path) -> None:
    """Harms the packed bytes of an array: zlib's own complaint is no OSError, and no BadZipFile."""
    with zipfile.ZipFile(path) as file:
        entry = file.getinfo("blocks.npy")
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + sum(content[entry.header_offset + k] for k in (26, 28))
    content[start] = 0x07  # a block of the kind that deflate reserves
    path.write_bytes(content)


def packed_otherwise(path: Path) -> None:
    """Names a way of packing that nobody knows."""
    content = path.read_bytes()
    path.write_bytes(
        content.replace(
            b"PK\x01\x02\x2d\x03\x2d\x00\x00\x00\x08\x00", b"PK\x01\x02\x2d\x03\x2d\x00\x00\x00\x63\x00"
        )
    )


@pytest.mark.parametrize("harm", [cut, pickled, fewer_places, empty, text, flipped, packed_otherwise])
def test_a_damaged_file_is_one_line(harm, tmp_path):
    kept = Ledger(tmp_path, INPUTS)
    kept.record(result())
    path = kept.folder / f"{NOISE.key}.npz"
    harm(path)
    with pytest.raises(RssegError, match=rf"{re.escape(path.name)}: damaged \(.*\); delete it") as caught:
        kept.take(NOISE)
    assert "\n" not in str(caught.value)
    assert "unsafely" not in str(caught.value)  # what numpy advises


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_damaged_inputs_are_one_line(content, tmp_path):
    kept = Ledger(tmp_path, INPUTS)
    kept.record(result())
    (kept.folder / "inputs.json").write_text(content)
    with pytest.raises(RssegError, match="use --overwrite, or another --out"):
        kept.require_same()


def test_clearing_takes_only_its_own_files(tmp_path):
    kept = Ledger(tmp_path, INPUTS)
    kept.clear()  # nothing there
    kept.record(result())
    (kept.folder / ".removed.npz.part").touch()
    (kept.folder / "notes.txt").write_text("mine")
    ledger.require_none(tmp_path / "elsewhere")
    with pytest.raises(RssegError, match=r"blocks: a run has finished scenarios here; go on with --resume"):
        ledger.require_none(tmp_path)
    kept.clear()
    ledger.require_none(tmp_path)
    assert [path.name for path in kept.folder.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_nothing_under_a_final_name(tmp_path, monkeypatch):
    def full(path, data):
        write(path, data[:9])
        if ".npz" in path.name:
            raise OSError(28, "No space left on device")
        write(path, data)

    kept, write = Ledger(tmp_path, INPUTS), Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RssegError, match=r"\.npz: cannot be written \(No space left on device\)"):
        kept.record(result())
    assert kept.take(NOISE) is None
    assert json.loads((kept.folder / "inputs.json").read_text())["model"] == "abc"
