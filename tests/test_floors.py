"""The house keeps its floors: imports go down only, heavy libraries stay at home, importing costs nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from florence2 import store

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "florence2"

FLOORS = {  # room -> floor; a room imports only from floors below its own; every room may know the records
    "structuring": -2, "records": -1, "arguments": -1, "labels": -1, "atomic_files": -1, "cache_folder": -1,
    "object_store": -1, "picture_cost": -1, "arrays": -1,
    "geometry": 0, "pixels": 0, "monitoring": 0,
    "codec": 1, "formats": 1, "store": 1, "metrics": 1, "model": 1, "scenes": 1, "drawing": 1, "box_rules": 1,
    "decoding": 2, "sources": 2,
    "predictor": 3,
    "evaluation": 4, "compat": 4,
    "training": 5, "engine": 5, "onnx": 5,
    "refinement": 6,
    "serving": 7, "reporting": 7,
    "cli": 8, "demo": 8, "evaluate_command": 8, "__main__": 8, "__init__": 8,
}  # fmt: skip

HOMES = {  # heavy library -> the only places that may import it (prefixes of paths below florence2/)
    "PIL": ("pixels.py", "drawing/", "scenes/"),
    "boto3": ("object_store.py",),
    "botocore": ("object_store.py",),
    "tokenizers": ("codec/tokenizer.py",),
    "pycocotools": ("metrics/coco_ap.py",),
    "hotcoco": ("metrics/coco_ap.py",),
    "pycocoevalcap": ("metrics/caption.py",),
    "peft": ("training/lora.py",),
    "spacy": ("engine/text/parser.py",),
    "cv2": ("engine/specialists/",),
    "onnx": ("onnx/",),
    "onnxruntime": ("engine/specialists/", "onnx/"),
    "rapidocr": ("engine/specialists/",),
    "tesserocr": ("engine/specialists/",),
    "transformers": ("engine/specialists/",),
    "ray": ("engine/execution/ray.py",),
    "fastapi": ("serving/",),
    "starlette": ("serving/",),
    "pydantic": ("serving/",),
    "uvicorn": ("serving/",),
    "prometheus_client": ("serving/",),
    "mcp": ("serving/",),
    "skimage": ("demo.py",),
    "pyarrow": ("store/", "sources/tables.py"),
    "torchvision": (),
    "timm": (),
}
NO_TORCH = (
    "records",
    "box_rules",
    "picture_cost",
    "geometry",
    "pixels",
    "codec",
    "formats",
    "store",
    "metrics",
    "scenes",
    "drawing",
    "arrays",
    "decoding",
)


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path):
    """Every (module, line) a file imports, lazy ones and strings like "florence2.x" in tables of names included."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write `from florence2.x import y`, not a relative import"
            yield node.module, node.lineno
            if node.module == "florence2":
                yield from ((f"florence2.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"florence2\.[a-z_.]+(:\w+)?", node.value):
                yield node.value.split(":")[0], node.lineno


def test_every_room_has_a_floor():
    unknown = {room_of(p) for p in modules()} - set(FLOORS)
    assert not unknown, f"rooms without a floor: {unknown}"


def test_imports_go_down():
    wrong = []
    for path in modules():
        here = room_of(path)
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != "florence2" or len(parts) < 2:
                continue
            there = parts[1] if parts[1] in FLOORS else "__init__"
            if (
                there not in (here, "__init__") and FLOORS[there] >= FLOORS[here] < 8
            ):  # the top floor may use everything
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} (floor {FLOORS[here]}) imports {name}")
    assert not wrong, "\n".join(wrong)


RUNNERS = ("inline", "processes", "fork_template", "worker_process", "job_worker", "supervision", "ray")


def test_runners_are_known_to_execution_alone():
    names = {f"florence2.engine.execution.{name}" for name in RUNNERS}
    outside = [path for path in modules() if path.parent.name != "execution"]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}; ask Execution.runner for one"
        for path in outside
        for name, line in imports(path)
        if name in names
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_at_home():
    wrong = []
    for path in modules():
        place = path.relative_to(PACKAGE).as_posix()
        for name, line in imports(path):
            top = name.split(".")[0]
            if top in HOMES and not place.startswith(HOMES[top]):
                wrong.append(f"{place}:{line}: {top} belongs in {HOMES[top]}")
            if top == "torch" and room_of(path) in NO_TORCH:
                wrong.append(f"{place}:{line}: torch on a floor without torch")
    assert not wrong, "\n".join(wrong)


def test_the_store_is_asked_through_its_facade():
    """Outside the store: no module of it but the room itself, no columns, no storage, no path put together."""
    wrong = []
    for path in modules():
        if room_of(path) == "store":
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "florence2.store":
                names = [alias.name for alias in node.names if alias.name not in store.__all__]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("florence2.store."):
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("florence2.store.")]
            elif isinstance(node, ast.Attribute) and node.attr == "storage":
                names = [".storage"]
            else:
                continue
            wrong += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in names]
    assert not wrong, "ask florence2.store.Store instead:\n" + "\n".join(wrong)


def test_only_one_place_opens_storage():
    found = [path.relative_to(PACKAGE).as_posix() for path in modules() if "LocalStorage(" in path.read_text()]
    assert found == ["store/storage/schemes.py"], found


def test_init_files_hold_no_logic():
    """Names brought in, or opened on first use; the package's own holds `evaluate`, which joins two floors."""
    wrong = []
    for path in PACKAGE.rglob("__init__.py"):
        allowed = {"__getattr__", "__dir__", *(["evaluate"] if path.parent == PACKAGE else [])}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name not in allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not wrong, "\n".join(wrong)


def test_modules_and_functions_stay_short():
    wrong = []
    for path in modules():
        text = path.read_text()
        lines = text.count("\n")
        if lines > 450:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        if path.stem in {"utils", "common", "helpers", "base", "core", "misc"}:
            wrong.append(f"{path.relative_to(ROOT)}: a drawer")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > 70 and path.relative_to(PACKAGE).as_posix() != "training/loop.py":
                    wrong.append(f"{path.relative_to(ROOT)}:{node.name}: {size} lines")
    assert not wrong, "\n".join(wrong)


def test_import_and_help_load_no_torch():
    code = (
        "import sys, florence2, florence2.cli\n"
        "florence2.cli.main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'transformers', 'spacy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_types_are_strict_on_the_floors_0_to_4():
    listed = re.findall(r'"florence2\.([a-z_]+)(?:\.\*)?"', (ROOT / "pyproject.toml").read_text())
    assert set(listed) == {room for room, floor in FLOORS.items() if floor <= 4}


def test_json_of_others_is_parsed_where_every_fault_of_it_is_one_error():
    """json.loads alone raises RecursionError too, which no caller expects; what was just dumped is exempt."""
    homes = ("structuring.py", "formats/documents.py", "serving/bodies.py", "training/dense.py")
    loose = re.compile(r"json\.load\(|json\.loads\((?!json\.dumps|sealed\.json_bytes|backend\.to_str)")
    found = [p.relative_to(PACKAGE).as_posix() for p in modules() if loose.search(p.read_text(encoding="utf-8"))]
    assert sorted(set(found) - set(homes)) == []
