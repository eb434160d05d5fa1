"""Files over HTTP, from a server on loopback that fails now and then."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster import handles
from rsseg.raster.grids import reference_grid
from rsseg.raster.location import exists, is_remote, locate, stem
from rsseg.raster.read import plan

HOST = "127.0.0.1"
PIXELS = np.random.default_rng(0).integers(1, 250, (3, 700, 800)).astype(np.uint8)


SERVER = """
import pathlib, re, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(sys.argv[1])


class Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        log = folder / "log"
        asked = self.headers.get("Range") or ""
        number = len(log.read_text().splitlines()) if log.exists() else 0
        with log.open("a") as file:
            file.write(f"{self.command} {self.path} {asked}\\n")
        fault, every = (folder / "fault").read_text().split()
        path = folder / self.path.partition("?")[0].strip("/")
        if number % int(every) == int(every) - 1:
            if fault == "drop":
                self.close_connection = True
                return self.connection.close()
            return self.answer(int(fault), b"")
        if not path.is_file():
            return self.answer(404, b"")
        content = path.read_bytes()
        found = re.fullmatch(r"bytes=(\\d+)-(\\d*)", asked)
        if found is None:
            return self.answer(200, content)
        start, stop = int(found[1]), min(int(found[2] or len(content)), len(content) - 1) + 1
        self.answer(206, content[start:stop], f"bytes {start}-{stop - 1}/{len(content)}")

    def answer(self, code, body, part=None):
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
server.daemon_threads = True
server.handle_error = lambda *_: None
print(server.server_port, flush=True)
server.serve_forever()
"""
"""Serves a folder with ranges; every n-th request fails as the file `fault` says.

A process of its own: rasterio holds Python's lock in parts of an open, so a thread could not answer.
"""

NEVER = "500 1000000"


class Server:
    """The server's folder and address."""

    def __init__(self, folder, port: int) -> None:
        self.folder = folder
        self.address = f"http://{HOST}:{port}"

    def fail(self, how: str) -> None:
        (self.folder / "fault").write_text(how)

    @property
    def requests(self) -> list[list[str]]:
        return [line.split(" ") for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "fault").write_text(NEVER)
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        yield Server(folder, int(process.stdout.readline()))
        process.kill()


@pytest.fixture
def cog(tmp_path, server):
    """A tiled file with nodata under a name that no other test asks for: GDAL remembers what a name held."""
    name = f"{tmp_path.name}.tif"
    place = {"transform": Affine(2, 0, 366_000, 0, -2, 5_808_000), "crs": "EPSG:32633"}
    shape = dict(zip(("count", "height", "width"), PIXELS.shape, strict=True))
    tiled = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "nodata": 7}
    with rasterio.open(
        server.folder / name, "w", driver="GTiff", dtype="uint8", **shape, **place, **tiled
    ) as file:
        file.write(PIXELS)
    return f"{server.address}/{name}"


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Pauses between attempts as short as GDAL and rsseg can make them."""
    monkeypatch.setattr(handles.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    monkeypatch.setenv("NO_PROXY", HOST)


def test_a_remote_file_is_read_in_parts(server, cog):
    location = locate(cog)
    grid = reference_grid([location])
    pixels, valid = plan([location], grid).read(Window(300, 300, 100, 100))
    np.testing.assert_array_equal(valid, (PIXELS != 7).all(0)[300:400, 300:400])
    np.testing.assert_array_equal(pixels, PIXELS[:, 300:400, 300:400] * valid)
    ranges = [asked for command, _, asked in server.requests if command == "GET" and asked]
    assert ranges
    sizes = [int(stop) - int(start) + 1 for start, stop in (asked[6:].split("-") for asked in ranges)]
    assert sum(sizes) < (server.folder / cog.rpartition("/")[2]).stat().st_size / 2


@pytest.mark.parametrize("fault", [500, 503, 429, "drop"])
def test_requests_that_fail_now_and_then_are_tried_again(server, cog, fault):
    server.fail(f"{fault} 3")
    location = locate(cog)
    grid = reference_grid([location])
    pixels, valid = plan([location], grid).read(Window(0, 0, *grid.shape))
    np.testing.assert_array_equal(pixels, PIXELS * valid)
    assert len(server.requests) > 6


def test_a_server_that_stays_broken_is_told_in_one_line(server, cog):
    location = locate(cog)
    grid = reference_grid([location])
    reader = plan([location], grid)
    server.fail("503 1")
    with pytest.raises(
        RasterError, match=r"rows 500-599, columns 500-599 cannot be read .*connection"
    ) as caught:
        reader.read(Window(500, 500, 100, 100))
    assert "\n" not in str(caught.value)
    server.fail(NEVER)
    pixels, valid = reader.read(Window(500, 500, 100, 100))  # and goes on when the server does
    np.testing.assert_array_equal(pixels, PIXELS[:, 500:600, 500:600] * valid)


def test_what_is_not_there_is_told_in_one_line(server):
    with pytest.raises(RasterError, match=r"missing.tif: no raster that GDAL can open .*address") as caught:
        reference_grid([locate(f"{server.address}/missing.tif")])
    assert "\n" not in str(caught.value)


def test_options_of_the_user_win_and_credentials_are_left_to_gdal(monkeypatch):
    seen = {}

    def watched(**options):
        seen.update(options)
        return real(**options)

    real = rasterio.Env
    monkeypatch.setattr(handles.rasterio, "Env", watched)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    with handles._environment("/vsis3/bucket/a.tif"):
        pass
    assert "GDAL_HTTP_MAX_RETRY" not in seen
    assert "GDAL_HTTP_TIMEOUT" in seen
    assert not [name for name in seen if name.startswith(("AWS", "GS_", "AZURE", "GDAL_DISABLE_READDIR"))]


def test_local_files_never_wait_for_a_network(tmp_path):
    script = (
        "import sys, time\n"
        "from rsseg.raster.grids import reference_grid\n"
        "start = time.time()\n"
        "try: reference_grid([sys.argv[1]])\n"
        "except Exception: pass\n"
        "sys.exit(time.time() - start > 0.25)\n"
    )
    file = tmp_path / "none.tif"
    code = "from pathlib import Path\n" + script.replace("sys.argv[1]", "Path(sys.argv[1])")
    assert (
        subprocess.run([sys.executable, "-c", code, str(file)], env=os.environ, check=False).returncode == 0
    )


@pytest.mark.parametrize(
    ("name", "location", "remote"),
    [
        ("http://host/a b.tif?x=1", "/vsicurl/http://host/a b.tif?x=1", True),
        ("HTTPS://host/a.tif", "/vsicurl/https://host/a.tif", True),
        ("s3://bucket/k/a.tif", "/vsis3/bucket/k/a.tif", True),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif", True),
        ("az://container/a.tif", "/vsiaz/container/a.tif", True),
        ("/vsizip/vsicurl/https://host/z.zip/a.tif", "/vsizip/vsicurl/https://host/z.zip/a.tif", True),
        ("/vsizip//data/z.zip/a.tif", "/vsizip//data/z.zip/a.tif", False),
        ("/vsimem/a.tif", "/vsimem/a.tif", False),
    ],
)
def test_names_of_virtual_files_stay_as_they_are(name, location, remote):
    assert locate(name) == location
    assert is_remote(location) is remote
    assert exists(location)
    assert stem(location) in {"a", "a b"}


def test_local_names_become_paths(tmp_path):
    file = tmp_path / "a b.tif"
    file.touch()
    assert locate(str(file)) == locate(file) == locate("a b.tif", tmp_path) == locate(file.as_uri()) == file
    assert exists(file)
    assert not exists(tmp_path / "b.tif")
    assert not is_remote(file)


def test_files_in_archives_are_read(tmp_path, server, cog):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(server.folder / cog.rpartition("/")[2], "inner/a.tif")
    location = locate(f"/vsizip/{tmp_path}/z.zip/inner/a.tif")
    grid = reference_grid([location])
    pixels, valid = plan([location], grid).read(Window(0, 0, 50, 50))
    np.testing.assert_array_equal(pixels, PIXELS[:, :50, :50] * valid)
