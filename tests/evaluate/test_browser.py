"""The report in a real browser: it loads whole and quietly, asks for nothing, and can be read everywhere."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
from rasterio.io import MemoryFile

from rsseg.evaluate import page
from rsseg.evaluate.compare import compare

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

LAPTOP, PHONE = (1366, 768), (390, 844)
NASTY = "</title><script>document.title='hacked'</script><img src=http://example.com/a.png onerror=hacked()>"
SECONDS = 60


class Browser:
    """Headless Chromium, spoken to over two pipes (the DevTools protocol; messages end with a zero byte)."""

    def __init__(self, folder) -> None:
        theirs, self._to = os.pipe()
        self._from, answer = os.pipe()
        # the shell puts the pipes where Chromium looks for them; numbers from 20 up cannot be in their way
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs, answer)]
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += ["--disable-dev-shm-usage", f"--user-data-dir={folder}", "--remote-debugging-pipe"]
        script = f'exec "$@" 3<&{high[0]} 4>&{high[1]} 2>/dev/null'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", CHROMIUM, *flags, "about:blank"], pass_fds=high
        )
        for end in (theirs, answer, *high):
            os.close(end)
        self._left, self._number, self._session = b"", 0, None
        self.events: list[dict] = []
        target = next(
            one["targetId"] for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page"
        )
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params) -> dict:
        """Sends a command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                return found["result"]
            self.events.append(found)

    def wait_for(self, method: str) -> None:
        """Waits until something has happened."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict:
        ends = time.monotonic() + SECONDS
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], max(ends - time.monotonic(), 0))
            assert ready, f"Chromium said nothing for {SECONDS} seconds"
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def open(self, path, size=LAPTOP, scheme="light") -> None:
        """Opens a page at a size and in a colour scheme, and forgets what happened before."""
        mobile = size == PHONE
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=mobile,
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def value(self, expression: str):
        """Returns the value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Returns what stands on the console."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event) for event in self.events if event.get("method") in kinds]

    def requests(self) -> set[str]:
        """Returns the addresses that were asked for, pictures in the page left out."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        urls = {event["params"]["request"]["url"] for event in sent}
        return {url for url in urls if not url.startswith("data:")}

    def screenshot(self):
        """Returns what is seen of the whole page, (3, H, W) uint8."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with MemoryFile(base64.b64decode(found["data"])) as memory, memory.open() as file:
            return file.read()[:3]

    def close(self) -> None:
        """Ends the browser."""
        self._session = None
        self.ask("Browser.close")
        os.close(self._to)
        self._process.wait(SECONDS)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory, made_content, made_pictures):
    path = tmp_path_factory.mktemp("report") / "report & <page>.html"
    content = made_content()
    content["model"] = content["command"] = content["scenes"][0] = NASTY
    page.write(path, [content], made_pictures)
    return path


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory, made_content, made_results):
    path = tmp_path_factory.mktemp("report") / "report.html"
    skills = {"one": 1.0, "two": 0.9, "a third one with a rather long name": 1.02}
    results = {name: made_results(skill=skill, seed=len(name)) for name, skill in skills.items()}
    contents = [made_content(skill=skill, seed=len(name), model=name) for name, skill in skills.items()]
    page.write(path, contents, (), compare(results, draws=50))
    return path


@pytest.fixture(params=["report", "side_by_side"])
def path(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_it_loads_quietly_and_asks_for_nothing(size, scheme, path, browser):
    browser.open(path, size, scheme)
    assert browser.complaints() == []
    assert browser.requests() == {path.as_uri()}
    assert browser.value("document.scripts.length") == 0
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.value("document.title") != "hacked"


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_nothing_sticks_out_of_the_screen(size, path, browser):
    browser.open(path, size)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.value("document.documentElement.scrollWidth") <= size[0]
    outside = """[...document.querySelectorAll('main *')]
        .filter(e => !e.closest('.scroll, pre, svg, .pair, .chip'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
    assert browser.value(outside) == []
    letters = """Math.min(...[...document.querySelectorAll('svg.chart text')].map(
        e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a).filter(n => n > 0))"""
    assert browser.value(letters) > 9  # pixels: charts keep their letters readable


CONTRAST = """(() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (a, b) => [0, 1, 2].map(k => a[k] * a[3] + b[k] * (1 - a[3])).concat(1);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => [.2126, .7152, .0722].reduce((sum, part, k) => sum + part * linear(c[k] / 255), 0);
  const found = [], walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || e.closest('title')) continue;
    const stack = [];
    for (let n = e; n; n = n.parentElement) stack.push(parse(getComputedStyle(n).backgroundColor));
    const ground = stack.reverse().reduce((b, a) => over(a, b), [255, 255, 255, 1]);
    const style = getComputedStyle(e), svg = e.closest('svg');
    const raw = parse(svg ? style.fill : style.color);
    const ink = over([...raw.slice(0, 3), raw[3] * style.opacity], ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 30)]);
  }
  return found.filter(f => f[0] < 4.5);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_ground(scheme, path, browser):
    browser.open(path, LAPTOP, scheme)
    assert browser.value(CONTRAST) == []


def test_light_and_dark_are_seen(report, browser):
    means = {}
    for scheme in ("light", "dark"):
        browser.open(report, LAPTOP, scheme)
        seen = browser.screenshot()
        assert seen.shape[2] == LAPTOP[0]
        assert seen.shape[1] > 3 * LAPTOP[1]
        colours = np.tensordot([1 << 16, 1 << 8, 1], seen.astype(int), 1)
        assert len(np.unique(colours)) > 1000  # pictures and charts, not an empty page
        means[scheme] = seen.mean()
    assert means["light"] > 200
    assert means["dark"] < 60


def test_text_of_files_is_shown_as_it_is(report, browser):
    browser.open(report)
    assert NASTY in browser.value("document.querySelector('h1').textContent")
    assert NASTY in browser.value("document.querySelector('pre').textContent")
    assert browser.value("typeof hacked") == "undefined"


def test_a_request_would_be_noticed_and_refused(tmp_path, browser):
    path = tmp_path / "page.html"
    path.write_text('<!DOCTYPE html><title>x</title><img src="missing.png"><script>console.log(1)</script>')
    browser.open(path)
    assert len(browser.requests()) == 2
    assert browser.complaints()
    policy = re.search(r"<meta http-equiv[^>]+>", page.html([{"scenarios": []}]))[0]
    path.write_text(
        f'<!DOCTYPE html>{policy}<img src="missing.png"><script>document.title = "hacked"</script>'
    )
    browser.open(path)
    assert browser.value("document.title") != "hacked"
