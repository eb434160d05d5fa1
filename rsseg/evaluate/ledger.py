"""OUT/blocks: finished scenarios on disk, one file each, so that a stopped run goes on where it was.

blocks/inputs.json       what decides the numbers: model, recipe, scenes, seed, …
blocks/removed-dsm.npz   counts of one scenario, written whole or not at all
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rsseg import header, whole
from rsseg.checkpoint import Model
from rsseg.data.scenes import Scene
from rsseg.data.tiles import OpenScene
from rsseg.errors import RssegError
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario
from rsseg.evaluate.tally import Rules
from rsseg.predict.layout import Layout
from rsseg.raster.location import Location, stamp_of
from rsseg.recipe import Recipe

NAME = "blocks"
_INPUTS = "inputs.json"
_DAMAGE = (
    *(ValueError, TypeError, KeyError, OSError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What a file that nobody here wrote raises when it is read."""


class Ledger:
    """The finished scenarios of an output folder.

    Args:
        out: folder of the scores; nothing is made in it before something is recorded.
        inputs: JSON values that decide the numbers, by what they are called.
    """

    def __init__(self, out: Path, inputs: Mapping[str, Any]) -> None:
        self.folder = out / NAME
        self._inputs: dict[str, Any] = json.loads(json.dumps(inputs))
        text = json.dumps(self._inputs, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()

    @property
    def begun(self) -> bool:
        """Whether anything was recorded."""
        return any(self.folder.glob("*.npz"))

    def require_same(self) -> None:
        """Checks that what was finished before was made from the same inputs.

        Raises:
            RssegError: something has changed, or the folder is damaged.
        """
        found = self._begun()
        if found is None:
            return
        names = [*self._inputs, *(name for name in found if name not in self._inputs)]
        changed = [name for name in names if found.get(name) != self._inputs.get(name)]
        if changed:
            raise RssegError(
                f"{self.folder}: begun with other {', '.join(changed)}; expected the same to go on: "
                "use --overwrite, or another --out"
            )

    def clear(self) -> None:
        """Removes what was finished before, and nothing else.

        Raises:
            RssegError: the folder cannot be written.
        """
        try:
            for path in [*self.folder.glob("*.npz"), *self.folder.glob(".*.part"), self.folder / _INPUTS]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritten(error) from error

    def take(self, scenario: Scenario) -> Result | None:
        """Returns what was recorded of a scenario, None where nothing was.

        Raises:
            RssegError: its file is damaged, or was made from other inputs.
        """
        path = self._path(scenario)
        if not path.is_file():
            return None
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("no archive of arrays")
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            known = json.loads(str(content["scenario"]))
            result = _result(scenario, content)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:100]
            raise RssegError(f"{path}: damaged ({reason}); delete it") from error
        if str(content["inputs"]) != self._digest or known != _definition(scenario):
            raise RssegError(f"{path}: made from other inputs; delete it, or use --overwrite")
        return result

    def record(self, result: Result) -> None:
        """Writes a scenario's file.

        Raises:
            RssegError: it cannot be written.
        """
        places = result.places
        content: dict[str, Any] = {
            "inputs": np.array(self._digest),
            "scenario": np.array(json.dumps(_definition(result.scenario))),
            "scenes": np.array([scene for scene, _, _ in places]),
            "rows": np.array([row for _, row, _ in places]),
            "cols": np.array([col for _, _, col in places]),
            "blocks": result.blocks.cpu().numpy().astype(np.int32),
            "reliability": result.reliability.cpu().numpy(),
        }
        archive = io.BytesIO()
        np.savez_compressed(archive, **content)
        self._begin()
        whole.write(self._path(result.scenario), archive.getvalue())

    def _path(self, scenario: Scenario) -> Path:
        return self.folder / f"{scenario.key}.npz"

    def _begin(self) -> None:
        path = self.folder / _INPUTS
        if not path.is_file():
            whole.write(path, (json.dumps(self._inputs, indent=1, sort_keys=True) + "\n").encode())

    def _begun(self) -> dict[str, Any] | None:
        path = self.folder / _INPUTS
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RssegError(f"{path}: cannot be read; use --overwrite, or another --out") from error
        return content if isinstance(content, dict) else {}

    def _unwritten(self, error: OSError) -> RssegError:
        return RssegError(f"{self.folder}: cannot be written ({error.strerror}); check the space left")


def require_none(out: Path) -> None:
    """Checks that no run stopped in a folder.

    Raises:
        RssegError: one did.
    """
    if any((out / NAME).glob("*.npz")):
        raise RssegError(
            f"{out / NAME}: a run has finished scenarios here; go on with --resume, or use --overwrite or "
            "another --out"
        )


def inputs_of(
    digest: str,
    model: Model,
    recipe: Recipe,
    scenes: Sequence[OpenScene],
    *,
    seed: int,
    rules: Rules,
    layout: Layout,
) -> dict[str, Any]:
    """Returns everything that decides the numbers, as JSON values.

    Args:
        digest: of the model file.
        model: network and facts.
        recipe: of the model, with overrides.
        scenes: that are scored.
        seed: of everything that is drawn.
        rules: which pixels are scored.
        layout: how windows pass through the network.
    """
    return {
        "model": digest,
        "data": recipe.data.model_dump(mode="json", exclude={"workers", "cache"}),
        "predict": recipe.predict.model_dump(mode="json"),
        "scenes": [_facts(opened.scene) for opened in scenes],
        "seed": seed,
        "rules": asdict(rules),
        "layout": asdict(layout),
        "device": next(model.segmenter.parameters()).device.type,
        "versions": header.versions(),
    }


def _facts(scene: Scene) -> dict[str, Any]:
    sources = [*scene.files.items(), *([("label", scene.label)] if scene.label else [])]
    return {
        "id": scene.id,
        "files": {name: _stamps(source.files) for name, source in sources},
        "area": None if scene.area is None else hashlib.sha256(scene.area.wkb).hexdigest(),
    }


def _stamps(files: Iterable[Location]) -> list[list[Any]]:
    return [[str(file), *stamp_of(file)] for file in files]


def _definition(scenario: Scenario) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(scenario)))
    return found


def _result(scenario: Scenario, content: Mapping[str, npt.NDArray[Any]]) -> Result:
    names = zip(content["scenes"].tolist(), content["rows"].tolist(), content["cols"].tolist(), strict=True)
    blocks = torch.from_numpy(content["blocks"].astype(np.int64))
    places = tuple((str(scene), int(row), int(col)) for scene, row, col in names)
    if blocks.ndim != 3 or len(blocks) != len(places) or content["reliability"].shape[1:] != (3,):
        raise ValueError(f"{len(places)} places for blocks of shape {tuple(blocks.shape)}")
    return Result(scenario, places, blocks.to_sparse(), torch.from_numpy(content["reliability"]))
