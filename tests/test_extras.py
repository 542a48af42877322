"""A missing module is named with what brings it."""

import ast
import re
import sys
from pathlib import Path

import pytest

from florence2 import cli
from florence2.cli.extras import remedy

ROOT = Path(__file__).parent.parent
OWN: dict[str, str] = {}  # nothing but the package and its extras is imported


def requirements():
    """The lines a built package would list, read from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rows = re.findall(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)
    lines = [name for row in rows for name in re.findall(r'"([^"]+)"', row)]
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    for extra, row in re.findall(r"^(\w+) = \[(.*?)\]$", table, re.M | re.S):
        lines += [f"{name}; extra == '{extra}'" for name in re.findall(r'"([^"]+)"', row)]
    return lines


def imported():
    """Every module outside the standard library that the package imports anywhere."""
    found = set()
    for path in (ROOT / "florence2").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.partition(".")[0] for name in names}
    return sorted(found - set(sys.stdlib_module_names) - {"florence2"})


def test_every_import_is_brought_by_the_package_or_an_extra():
    lines = requirements()
    assert "torch" in imported() and len(imported()) > 15
    assert {name: remedy(name, lines) for name in imported() if "florence2" not in remedy(name, lines)} == OWN


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("pycocotools.coco", "pip install 'florence2[eval]'"),
        ("cv2", "pip install 'florence2[demo]'"),
        ("PIL.Image", "pip install florence2"),
        ("tomatoes", "pip install tomatoes"),
        ("mcp.server.lowlevel", "pip install 'florence2[mcp]'"),
        ("uvicorn", "pip install 'florence2[serve]'"),
    ],
)
def test_advice(module, advice):
    assert remedy(module, requirements()) == advice


def test_the_smallest_extra_is_named():
    """A built package lists what extras take over from others, dev everything."""
    lines = ["numpy", *(f"{name}; extra == 'dev'" for name in ("uvicorn", "fastapi", "mcp")), "mcp; extra == 'mcp'"]
    assert remedy("mcp", lines) == "pip install 'florence2[mcp]'" and remedy("numpy", lines) == "pip install florence2"


def test_a_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    import florence2.cli.doctor

    def missing(argv):
        raise ModuleNotFoundError("No module named 'tomatoes'", name="tomatoes")

    monkeypatch.setattr(florence2.cli.doctor, "main", missing)
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "florence2 doctor: No module named 'tomatoes'; pip install tomatoes\n"
