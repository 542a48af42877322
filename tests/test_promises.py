"""Every test that a page names is there, and every promise names one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`|`make (\w+)`")


def functions_of(file):
    """The names of a file's functions."""
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_and_target_that_a_page_names_is_there(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path, function, target in NAMED.findall(page.read_text()):
        assert not target or target in targets, f"make {target}"
        assert not path or (ROOT / path).is_file(), path
        assert not function or function in functions_of(ROOT / path), f"{path}::{function}"


@pytest.mark.parametrize("name", ["reliability.md", "security.md"])
def test_every_row_of_promises_names_its_test(name):
    text = (ROOT / "docs" / name).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| promised")]
    tables = [row for row in rows if NAMED.search(row)]
    assert len(tables) >= (15 if name == "reliability.md" else 0)
    store = text.partition("## The store")[2].partition("\n## ")[0]
    for row in store.splitlines():
        if row.startswith("| ") and not row.startswith("| promised"):
            assert NAMED.search(row.rpartition(" | ")[2]), row
