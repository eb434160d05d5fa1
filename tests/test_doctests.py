"""Every example in a docstring runs and says what it shows."""

import doctest
import importlib
import pkgutil

import pytest

import rsseg

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(rsseg.__path__, "rsseg.")
    if not module.name.endswith("__main__")
)
SHOWN = ["rsseg.geo.window", "rsseg.geo.tiling", "rsseg.modality", "rsseg.classmap", "rsseg.recipe"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed


@pytest.mark.parametrize("name", SHOWN)
def test_there_are_examples(name):
    assert doctest.testmod(importlib.import_module(name)).attempted
