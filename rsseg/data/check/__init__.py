"""Opens and reads everything beforehand, and says what is wrong, strange or worth knowing.

    check(scenes, modalities, class map) ──► Report ──► coverage.write, page.write, the command line

A check never raises for what it finds in files: it is all in the report.  Scenes are read a few at a time, so
memory is bounded whatever their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from rsseg.classmap import ClassMap
from rsseg.data import leaks
from rsseg.data.check import scan
from rsseg.data.check.findings import judge
from rsseg.data.check.layers import Known, SceneScan, open_scene
from rsseg.data.check.report import Finding, Report, SceneReport, sorted_findings
from rsseg.data.check.scan import Target
from rsseg.data.check.summary import summarise
from rsseg.data.scenes import Scene, Scenes
from rsseg.errors import RssegError
from rsseg.modality import Modality, Statistics

__all__ = ["Options", "check"]

_TOGETHER = 16
"""Scenes that are read at a time."""
_FEW = 3
"""Scenes that are named where many have the same finding."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a check is done."""

    gsd: float | None = None
    """Pixel size of the scenes' grids, metres; the reference's own pixels where None."""
    quick: bool = False
    """Whether a sample of blocks does."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads that read."""
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    """Takes what is under way, parts done, and parts in all."""


def check(
    scenes: Scenes,
    modalities: Mapping[str, Modality] | None = None,
    class_map: ClassMap | None = None,
    *,
    statistics: Mapping[str, Statistics] | None = None,
    options: Options | None = None,
) -> Report:
    """Returns what is found in the files of scenes.

    Args:
        scenes: rows with one id are parts of one scene, which is read once.
        modalities: by name; files of others are checked without bands, units and clip.
        class_map: what labels should hold; None lists their values.
        statistics: of the training data, by modality; values far from them are told.
        options: how it is done.
    """
    options = options or Options()
    known = Known(modalities or {}, class_map, options.gsd, options.quick)
    parts = _by_id(scenes)
    reports: list[SceneReport] = []
    findings: list[Finding] = []
    for start in range(0, len(parts), _TOGETHER):
        group = parts[start : start + _TOGETHER]
        for opened in _read(group, scenes.modalities, known, options, (start, len(parts))):
            reports.append(summarise(opened, class_map))
            findings += judge(opened, reports[-1], class_map, statistics or {})
    findings += _leaks(scenes, reports, options.gsd)
    return Report(tuple(reports), sorted_findings(_joined(findings)), options.quick)


def _leaks(scenes: Scenes, reports: Sequence[SceneReport], gsd: float | None) -> Iterator[Finding]:
    """Yields ground that lies in two splits; scenes whose reference cannot be read have none."""
    placed = {report.id for report in reports if report.height is not None}
    rows = tuple(scene for scene in scenes if scene.id in placed)
    if len({scene.split for scene in rows if scene.split}) < 2:
        return
    try:
        found = leaks.find(replace(scenes, rows=rows), gsd)
    except RssegError as error:
        yield Finding("warning", "leakage-unknown", f"splits cannot be compared: {error}")
        return
    for leak in found:
        yield Finding(
            "error", "leakage", f"{leak}; scores would be too good: split by whole scenes, or by blocks"
        )


def _by_id(scenes: Scenes) -> list[tuple[Scene, tuple[str, ...]]]:
    """Returns each scene once, with the splits that it has parts in."""
    found: dict[str, tuple[Scene, tuple[str, ...]]] = {}
    for scene in scenes:
        first, splits = found.get(scene.id, (scene, ()))
        more = (scene.split,) if scene.split and scene.split not in splits else ()
        found[scene.id] = first, (*splits, *more)
    return list(found.values())


def _read(
    group: Sequence[tuple[Scene, tuple[str, ...]]],
    order: tuple[str, ...],
    known: Known,
    options: Options,
    place: tuple[int, int],
) -> list[SceneScan]:
    with ThreadPoolExecutor(options.jobs) as pool:
        opened = list(pool.map(lambda item: open_scene(item[0], order, item[1], known), group))
    name = _title(group, *place)
    targets = list(dict.fromkeys(target for found in opened for target in _targets(found)))
    scan.run(targets, options.jobs, lambda done, total: options.progress(name, done, total))
    return opened


def _targets(opened: SceneScan) -> Iterator[Target]:
    for layer in opened.layers:
        yield from (file.target for file in layer.files if file.target is not None)
    for layer in opened.layers:
        if layer.target is not None:
            yield layer.target


def _title(group: Sequence[tuple[Scene, tuple[str, ...]]], start: int, total: int) -> str:
    if total == 1:
        return group[0][0].id
    return f"scenes {start + 1}-{start + len(group)} of {total}"


def _joined(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yields findings; what many scenes have word by word in common is said once."""
    alike: dict[Finding, list[str]] = {}
    for finding in findings:
        alike.setdefault(replace(finding, scene=None), []).append(finding.scene or "")
    for finding, ids in alike.items():
        distinct = [name for name in dict.fromkeys(ids) if name]
        if len(distinct) <= 1:
            yield replace(finding, scene=distinct[0] if distinct else None)
            continue
        more = f" and {len(distinct) - _FEW} more" if len(distinct) > _FEW else ""
        yield replace(finding, message=f"{finding.message} ({', '.join(distinct[:_FEW])}{more})")
