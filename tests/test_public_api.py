"""The names that people import."""

import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

import rsseg
from rsseg import errors

NAMES = [name for name in rsseg.__all__ if name != "__version__"]


def test_names_are_sorted_and_distinct():
    assert list(rsseg.__all__) == sorted(set(rsseg.__all__))
    assert dir(rsseg) == sorted(rsseg.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_explained(name):
    found = getattr(rsseg, name)
    assert found.__module__.startswith("rsseg.")
    assert inspect.getdoc(found)


def test_every_name_is_the_one_of_its_home():
    assert set(rsseg._HOMES) == set(NAMES)
    for name, home in rsseg._HOMES.items():
        assert getattr(import_module(home), name) is getattr(rsseg, name)


def test_star_import_gives_exactly_the_public_names():
    scope: dict[str, object] = {}
    exec("from rsseg import *", scope)  # noqa: S102 - the statement is the test
    assert set(scope) - {"__builtins__"} == set(rsseg.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'segment'"):
        _ = rsseg.segment


def test_version_is_the_packages():
    assert rsseg.__version__ == version("rsseg")


def test_import_waits_for_nothing_heavy():
    code = "import sys, rsseg; sys.exit(str(bad) if (bad := {'torch', 'rasterio'} & set(sys.modules)) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_error_is_an_rsseg_error():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) == 7
    assert all(issubclass(kind, rsseg.RssegError) for kind in kinds)
    assert all(kind.__name__ in errors.__doc__ for kind in kinds)
