"""Rules of the house that no linter checks."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import rsseg

ROOT = Path(rsseg.__file__).parents[1]
MODULES = sorted(Path(rsseg.__file__).parent.rglob("*.py"))
MOST_LINES = 300
VAGUE = {"utils", "common", "helpers", "misc", "base", "core", "manager"}
FOREIGN = re.compile(
    "|".join(
        [
            "/" + "work/",  # split, so that this file does not find itself
            "/" + r"home/\w+/",
            "index" + "-url",
            "--find" + "-links",
            r"https?://[^\s\"'/]*(?:artifactory|nexus|registry|mirror|proxy|localhost)",
            r"https?://\d+\.\d+\.\d+\.\d+",
            r"https?://[^\s\"'/]*/simple\b",
        ]
    )
)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def kept() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def test_no_file_knows_where_it_was_written():
    found = [
        f"{named(path)}:{number}: {line.strip()[:80]}"
        for path in kept()
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert found == []


def code_lines(tree: ast.Module, text: str) -> int:
    """Counts lines that are neither blank, nor comment, nor docstring."""
    told: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            told |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and k not in told for k, line in lines
    )


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_modules_are_short_and_named_for_what_they_hold(path):
    text = path.read_text(encoding="utf-8")
    assert code_lines(ast.parse(text), text) <= MOST_LINES
    assert not VAGUE & {path.stem, *path.relative_to(ROOT).parts}


def test_lines_of_code_are_counted():
    text = '"""Doc.\n\nMore.\n"""\n\n# comment\nx = 1\n\n'
    text += 'def f():\n    """Doc."""\n    return """text\n    of two lines"""\n'
    assert code_lines(ast.parse(text), text) == 4


def writes(tree: ast.Module) -> list[str]:
    """Returns what a module does to reach the terminal."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"print", "input"}
        ):
            found.append(f"{node.lineno}: {node.func.id}()")
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr", "__stdout__"}:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module in {"rich.console", "rich"}:
            found.append(f"{node.lineno}: from {node.module}")
        if isinstance(node, ast.ImportFrom) and node.module == "sys":
            found += [f"{node.lineno}: sys.{a.name}" for a in node.names if a.name in {"stdout", "stderr"}]
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if "cli" not in p.relative_to(ROOT).parts], ids=named)
def test_only_the_command_line_talks(path):
    assert writes(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_talking_is_noticed():
    text = "import sys\nfrom sys import stdout\nprint(1)\nsys.stdout.write('x')\n"
    assert [line.split(":")[0] for line in sorted(writes(ast.parse(text)))] == ["2", "3", "4"]
