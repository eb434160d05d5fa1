"""The end of the page: windows as pictures, every scenario, and how the figures came to be."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rsseg.evaluate.page import content as said
from rsseg.evaluate.page.marks import chips, cut, escape, image, percent, section
from rsseg.evaluate.page.overview import Colours, heat
from rsseg.evaluate.pictures import Picture, Said

_WHY = {
    "best": "Best over all subsets",
    "fall": "Furthest fall from all sensors to the worst subset",
    "worst": "Worst, although no sensor is missing",
}


def windows(pictures: Sequence[Picture], modalities: Sequence[str]) -> str:
    """Returns the best and worst windows in pictures."""
    legend = dict(entry for picture in pictures for entry in picture.legend)
    entries = "".join(f"<span>{swatch(colour)}{escape(cut(name))}</span>" for name, colour in legend.items())
    cards = "".join(_window(picture, modalities) for picture in pictures)
    words = "Inputs stretched from their 2nd to their 98th percentile. Chequered: invalid, or not labelled."
    body = f"<div class=windows><div class=legend>{entries}</div>{cards}</div>" if pictures else ""
    return section("Windows", body, words)


def swatch(colour: str) -> str:
    """Returns a small square of a class's colour."""
    return f'<i class=swatch style="background:{escape(colour)}"></i>'


def _window(picture: Picture, modalities: Sequence[str]) -> str:
    inputs = [
        _figure(image(shown.png, shown.name), f"<b>{escape(shown.name)}</b>") for shown in picture.inputs
    ]
    inputs.append(_figure(image(picture.target, "target", "exact"), "<b>target</b>"))
    said_by = "".join(_prediction(found, modalities) for found in picture.said)
    where = f"{picture.scene}, {picture.window.words}"
    return (
        f"<section class=card><h3>{escape(_WHY.get(picture.why, picture.why))}</h3>"
        f"<span class=soft>{escape(where)}</span>"
        f"<div class=looks>{''.join(inputs)}</div><h4>What the model says with</h4>"
        f"<div class=looks>{said_by}</div></section>"
    )


def _prediction(found: Said, modalities: Sequence[str]) -> str:
    right = f"<br><span class=soft>{percent(found.right, 0)} % right</span>"
    picture = image(found.png, f"classes from {', '.join(found.subset)}", "exact")
    return _figure(picture, chips(found.subset, modalities) + right)


def _figure(picture: str, caption: str) -> str:
    return f"<figure><div class=pair>{picture}</div><figcaption>{caption}</figcaption></figure>"


def scenarios(content: said.Content, colours: Colours) -> str:
    """Returns every damaged scenario by class, folded up by kind."""
    parts = []
    for kind, rows in said.damaged(content):
        if kind == "removed":
            continue
        name = said.KINDS.get(kind, kind)
        table = heat(content, rows, colours, name)
        count = f"{len(rows)} scenario{'s' * (len(rows) != 1)}"
        parts.append(
            f"<details class=card><summary>{escape(name)} <span class=soft>({count})</span></summary>"
            f"<div class=scroll>{table}</div></details>"
        )
    words = "IoU of each class, %; scores.csv holds the same."
    return section("All scenarios", "".join(parts), words)


def provenance(contents: Mapping[str, said.Content]) -> str:
    """Returns what was run, with what, and how it was scored."""
    parts = []
    for name, content in contents.items():
        heading = f"<h3>{escape(cut(name))}</h3>" if len(contents) > 1 else ""
        parts.append(f"<div class=card>{heading}{_run(content)}{_recipe(content)}</div>")
    return section("How this came to be", "".join(parts))


def _run(content: said.Content) -> str:
    versions = content.get("versions") or {}
    scenes = [str(scene) for scene in content.get("scenes", ())]
    facts = {
        "model": content.get("model"),
        "method": content.get("method"),
        "backbone": content.get("backbone"),
        "modalities": ", ".join(said.modalities(content)),
        "split": content.get("split"),
        "scenes": ", ".join(scenes[:20]) + (f" and {len(scenes) - 20} more" if len(scenes) > 20 else ""),
        "absent classes": _ABSENT.get(str(content.get("absent"))),
        "boundaries": _eroded(content.get("eroded")),
        "classes left out": ", ".join(content.get("without") or ()),
        "classes without a label": ", ".join(content.get("unlabelled") or ()),
        "seed": content.get("seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    command = content.get("command")
    words = shlex.join(command) if isinstance(command, list) else command
    shown = f"<pre><code>{escape(str(words))}</code></pre>" if words else ""
    return f"{shown}<dl>{rows}</dl>"


_ABSENT = {
    "nan": "a class that neither occurs nor is predicted takes no part in the mean (nan)",
    "zero": "a class that neither occurs nor is predicted counts as 0 (zero)",
}


def _eroded(pixels: Any) -> str:
    return f"labels within {pixels} pixels of another class are not counted" if pixels else ""


def _recipe(content: said.Content) -> str:
    recipe = content.get("recipe")
    if not recipe:
        return ""
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return f"<details><summary>recipe</summary><pre><code>{escape(text)}</code></pre></details>"
