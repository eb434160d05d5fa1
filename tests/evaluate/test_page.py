"""The report: every number is in it, nothing outside is asked for, and nothing in it can act."""

import json
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from rsseg import colours
from rsseg.errors import RssegError
from rsseg.evaluate import page
from rsseg.evaluate.compare import compare
from rsseg.evaluate.page import charts, content, style
from rsseg.evaluate.page.marks import percent, points

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Reads a page as a browser would: elements with their attributes, text, and whether all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="module")
def whole(made_content):
    return made_content()


@pytest.fixture(scope="module")
def read(whole, made_pictures):
    return Reader(page.html([whole], made_pictures))


def headings(reader: Reader) -> list[str]:
    text = "\n".join(reader.text)
    names = ("Summary", "Subsets and classes", "Degradation", "Contributions", "Calibration", "Windows")
    return [name for name in (*names, "All scenarios", "How this came to be") if f"\n{name}\n" in text]


def test_every_score_is_there(whole, read):
    shown = set(read.text)
    for row in whole["scenarios"]:
        for value in (row["miou"], row["oa"], row["seen"], row["ece"], *row["iou"].values()):
            assert percent(value) in shown
    for one in content.summed(whole):
        figures = one.figures
        values = [figures["average"], figures["best"], figures["worst"]]
        values += [*figures.get("expected", {}).values(), *figures.get("by_missing", ())]
        assert {percent(value) for value in values} <= shown


def rows_of(text: str) -> list[list[str]]:
    """Returns the cells of all tables."""
    found = re.findall(r"<tr>(.*?)</tr>", text)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in found]
    return [[re.sub("<[^>]+>", "", cell) for cell in row] for row in cells]


def test_the_heat_map_has_a_line_for_each_subset(made_content):
    whole = made_content(("removed",))
    lines = [row[1:] for row in rows_of(page.html([whole]))]
    for row in whole["scenarios"]:
        values = [row["miou"], row["oa"], row["seen"], row["ece"], *row["iou"].values()]
        assert [percent(value) for value in values] in lines


def test_the_summary_has_a_line_for_each_kind_and_strength(whole, read):
    rows = {row[0]: row[1:] for row in rows_of(page.html([whole]))}
    figures = whole["summary"]["random"]["0.5"]
    expected = [figures[name] for name in ("average", "best", "worst")]
    expected += [*figures["expected"].values(), *figures["by_missing"]]
    assert rows["elements zeroed at random, r = 0.5"] == [percent(value) for value in expected]


def test_the_verdict_names_what_matters(whole, read):
    summary = whole["summary"]["removed"]
    text = "".join(read.text)
    assert f"{percent(summary['average'])} % mIoU on average over 7 subsets of its sensors" in text
    assert f"best {percent(summary['best'])} % with rgb + sar + dsm, worst" in text
    assert (
        f"Losing rgb hurts most: it costs {percent(summary['fragility']['rgb'])} points on average." in text
    )
    assert "simulated_city are simulated: the scores say nothing about real ones." in text


def test_all_sections_are_there(read):
    assert len(headings(read)) == 8


def test_sections_without_data_are_left_out(made_content):
    reader = Reader(page.html([made_content(("removed",), shares=False)]))
    assert headings(reader) == [
        "Summary",
        "Subsets and classes",
        "Degradation",
        "Calibration",
        "How this came to be",
    ]


def test_scores_of_the_first_version_are_drawn_too(made_content):
    old = made_content(("removed",))
    kept = ("model", "split", "classes", "modalities")
    fields = ("scenario", "subset", "parameter", "miou", "oa", "seen", "iou", "f1")
    old = {
        **{name: old[name] for name in kept},
        "scenarios": [{name: row[name] for name in fields} for row in old["scenarios"]],
        "summary": {
            "removed": {name: old["summary"]["removed"][name] for name in ("average", "best", "worst")}
        },
    }
    reader = Reader(page.html([old]))
    assert headings(reader) == ["Summary", "Subsets and classes", "How this came to be"]


def test_nothing_outside_is_asked_for(read):
    refused = {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    assert not refused & {tag for tag, _ in read.elements}
    for tag, attributes in read.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"href", "srcset", "action", "xlink:href"}
            if name == "src":
                assert tag == "img"
                assert value.startswith("data:image/png;base64,")
    assert "url(" not in style.STYLE
    assert "@import" not in style.STYLE
    policies = [a["content"] for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


NASTY = '</style></title><script>alert(1)</script><img src=x onerror=alert(2)>"\' onload="x" &amp; {}'


def poisoned(value, names: dict[str, str]):
    """Returns JSON with names replaced, as keys and as values."""
    if isinstance(value, dict):
        return {names.get(key, key): poisoned(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [poisoned(entry, names) for entry in value]
    return names.get(value, f"{NASTY}{value}" if isinstance(value, str) and len(value) > 30 else value)


def test_text_from_files_is_shown_and_never_acts(whole, made_pictures, made_results):
    plain = [
        *whole["classes"],
        *whole["modalities"],
        *whole["scenes"],
        "sgma",
        "test",
        "runs/one/best.safetensors",
    ]
    plain += ["speckle", "partial", "swath", "low", "torch", "simulated_city", whole["backbone"]]
    nasty = json.loads(json.dumps(poisoned(whole, {name: NASTY + name for name in plain})))
    nasty["colours"] = {NASTY + "water": '"><script>alert(3)</script>'}
    clean, bad = (Reader(page.html([one], made_pictures)) for one in (whole, nasty))
    comparison = compare({NASTY + "a": made_results(), NASTY + "b": made_results()}, draws=3)
    several = Reader(page.html([nasty, nasty], (), comparison))
    for reader in (bad, several):
        assert not {"script"} & {tag for tag, _ in reader.elements}
        assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
        assert len([1 for tag, _ in reader.elements if tag == "style"]) == 1
    images = [sum(tag == "img" for tag, _ in reader.elements) for reader in (clean, bad)]
    assert images[0] == images[1]
    assert any("<script>alert(1)</script>" in text for text in bad.text)  # shown as it is


def test_equal_contents_are_equal_bytes(whole, made_pictures, tmp_path):
    again = json.loads(json.dumps(whole))
    paths = [tmp_path / "one.html", tmp_path / "two.html"]
    for path, one in zip(paths, (whole, again), strict=True):
        page.write(path, [one], made_pictures)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.html", "two.html"}
    assert len(paths[0].read_bytes()) < 3_000_000


def test_a_page_that_cannot_be_written_leaves_nothing(whole, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(RssegError, match=r"taken: cannot be written \(Is a directory\); check the folder"):
        page.write(tmp_path / "taken", [whole])
    with pytest.raises(RssegError, match="cannot be written"):
        page.write(Path(__file__) / "report.html", [whole])
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.fixture(scope="module")
def pair(made_content, made_results):
    kinds = ("removed", "zeroed", "random", "partial")
    contents = [
        made_content(kinds),
        made_content(kinds, skill=0.9, seed=7, model="runs/two/best.safetensors"),
    ]
    comparison = compare(
        {"one": made_results(kinds), "two": made_results(kinds, skill=0.9, seed=7)}, draws=100
    )
    return contents, comparison


def test_models_stand_side_by_side(pair):
    contents, comparison = pair
    reader = Reader(page.html(contents, (), comparison))
    text = "".join(reader.text)
    line = comparison.averages[0]
    gap = line.difference[1]
    assert f"one holds up best: {percent(line.miou[0].value)} % mIoU on average." in text
    assert f"two is {percent(-gap.value)} points below one (95 % interval {points(gap.low)} to" in text
    shown = set(reader.text)
    for one in (*comparison.lines, *comparison.averages):
        assert {percent(value.value) for value in one.miou} <= shown
        assert points(one.difference[1].value) in shown
    assert "100 draws of 12 blocks" in text


def test_a_difference_that_may_be_chance_is_called_so(made_content, made_results):
    results = [made_results(("removed",), seed=seed) for seed in (0, 3)]
    comparison = compare(dict(zip(("one", "two"), results, strict=True)), draws=200)
    text = page.html([made_content(("removed",))] * 2, (), comparison)
    assert not comparison.averages[0].difference[1].clear
    assert "may be chance, 95 % interval" in text


def test_a_model_beside_itself_is_no_different(made_content, made_results):
    comparison = compare({name: made_results(("removed",)) for name in ("one", "two")}, draws=20)
    text = page.html([made_content(("removed",))] * 2, (), comparison)
    assert "two is no different from one." in text


def test_models_of_other_sensors_are_judged_with_all_of_theirs(made_content, made_results):
    """The Average of a model with a single sensor knows no loss at all."""
    results, whole = made_results(("removed",)), made_content(("removed",))
    clean = whole["scenarios"][0]
    figures = {"average": clean["miou"], "best": clean["miou"], "worst": clean["miou"]}
    alone = {**whole, "modalities": ["rgb"], "scenarios": [clean | {"subset": ["rgb"]}]}
    alone["summary"] = {"removed": figures}
    comparison = compare({"all": results, "alone": results[:1]}, draws=20)
    text = "".join(Reader(page.html([whole, alone], (), comparison)).text)
    assert "The models have different sensors: each is scored where one of its own sees something" in text
    assert f"all is best where nothing is missing: {percent(clean['miou'])} % mIoU." in text
    assert "alone is no different from all." in text
    assert "holds up best" not in text
    text = "".join(Reader(page.html([alone])).text)
    assert f"mIoU: {percent(clean['miou'])} % with rgb alone." in text


def test_models_without_a_comparison_are_told_apart(made_content):
    reader = Reader(page.html([made_content(("removed",))] * 2))
    numbers = re.findall(r"runs/one/best\.safetensors \((\d)\)", " ".join(reader.text))
    assert set(numbers) == {"1", "2"}


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("chosen", "scheme"), [(style.LIGHT, "light"), (style.DARK, "dark")])
def test_colours_stand_out_from_the_paper(chosen, scheme):
    assert len(set(chosen)) == style.SERIES
    for colour in chosen:  # they are those of words too, so more than the 3 : 1 of lines
        assert contrast(colour, style.PAPER[scheme]) >= 4.5
    assert contrast(style.INK[scheme], style.PAPER[scheme]) >= 12


@pytest.mark.parametrize("chosen", [style.LIGHT, style.DARK])
def test_colours_differ_to_all_eyes(chosen):
    seen = colours._seen(colours._rgb(chosen))
    gaps = [np.linalg.norm(eye[a] - eye[b]) for eye in seen for a, b in combinations(range(len(chosen)), 2)]
    assert min(gaps) >= 20


def test_curves_pass_through_their_points():
    axis = charts.Axis("x", ((0.0, "0"), (1.0, "1")))
    series = [charts.Series("a", ((0.0, 0.5), (0.5, 0.25), (1.0, 0.0)), 0)]
    drawn = charts.lines("words", axis, series, 0.5)
    path = re.findall(r'<path class="curve" d="M([^"]+)"', drawn)[0]  # the legend has one of its own
    xy = [tuple(float(part) for part in point.split()) for point in path.split("L")]
    assert xy[1] == pytest.approx(((xy[0][0] + xy[2][0]) / 2, (xy[0][1] + xy[2][1]) / 2))
    assert xy[0][1] < xy[2][1]  # more is higher
    assert re.findall("<title>(a[^<]*)", drawn) == [
        "a, 0: 50.0 %",
        "a, 0.5: 25.0 %",
        "a, 1: 0.0 %",
    ]


def test_bars_are_as_long_as_their_values():
    drawn = charts.bars("words", {"a": [("x", 0.2, 0), ("y", 0.1, 1)], "b": [("x", -0.1, 0), ("y", None, 1)]})
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height', drawn)]
    assert widths == pytest.approx([2 * widths[1], widths[1], widths[1], 0], abs=0.2)
    assert re.findall(r">([−\d.–]+)</text>", drawn) == ["20.0", "10.0", "−10.0", "–"]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_is_no_number_is_a_dash(value):
    assert percent(value) == points(value) == "–"
