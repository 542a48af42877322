"""One name, one meaning: no two modules and no two public classes are called alike, unless they mean the same."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "florence2"

SAME_MODULES = {  # name -> why all modules of that name mean the same; a command is called as what it does
    "florence2": "the package, and the module of the class Florence2",
    "onnx": "models in ONNX: a detector that a card describes, and Florence-2 exported",
    "scenes": "drawn scenes, and drawn scenes as a source of samples",
}
SAME_CLASSES: dict[str, str] = {}


def of_name(names):
    """name -> the files that define it, where they are several."""
    found = defaultdict(list)
    for name, path in names:
        found[name].append(path.relative_to(PACKAGE).as_posix())
    return {name: places for name, places in found.items() if len(places) > 1}


def test_no_two_modules_share_a_name():
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "cli"]
    shared = of_name((path.parent.name if path.stem == "__init__" else path.stem, path) for path in files)
    assert set(shared) - set(SAME_MODULES) == set(), {n: p for n, p in shared.items() if n not in SAME_MODULES}
    assert set(SAME_MODULES) <= set(shared), "named above, and shared no more"


def test_no_two_public_classes_share_a_name():
    classes = (
        (node.name, path)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    shared = of_name(classes)
    assert set(shared) - set(SAME_CLASSES) == set(), {n: p for n, p in shared.items() if n not in SAME_CLASSES}
    assert set(SAME_CLASSES) <= set(shared), "named above, and shared no more"


def test_no_two_test_files_share_a_name():
    """pytest imports test files by their bare names: of two of one name it collects neither, and runs nothing."""
    shared = defaultdict(list)
    for path in Path(__file__).parent.rglob("test_*.py"):
        shared[path.name].append(str(path))
    assert not {name: places for name, places in shared.items() if len(places) > 1}
