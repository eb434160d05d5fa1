"""Shells complete verbs and options, without waiting for torch."""

import os
import subprocess
import sys

import pytest

from rsseg import cli

COMMAND = [sys.executable, "-c", "from rsseg.cli import main; main()"]
"""What the script `rsseg` runs."""


def completed(words: str, **extra: str) -> list[str]:
    number = len(words.split(" ")) - 1
    asked = {"_RSSEG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    done = subprocess.run(
        COMMAND, env={**os.environ, **asked, **extra}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_verbs_are_completed():
    assert completed("rsseg ") == list(cli.VERBS)
    assert completed("rsseg pre") == ["predict"]


@pytest.mark.parametrize(("typed", "found"), [("info --j", "--json"), ("simulate --cl", "--clouds")])
def test_options_are_completed(typed, found):
    assert completed(f"rsseg {typed}") == [found]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells_are_shown(shell):
    asked = {"_RSSEG_COMPLETE": f"source_{shell}", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(COMMAND, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert "_RSSEG_COMPLETE" in done.stdout
