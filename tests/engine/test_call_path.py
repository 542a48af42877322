"""How far a reader has to jump: the modules that one picture passes through, from the command to its written row.

Measured over `florence2 annotate` in this process, one picture, one specialist. What counts, in this order:
* a call handles the picture if one of its arguments names it: itself, or in a field or element, four levels deep;
* the path is the first call of each function that handles the picture, in the order of the calls;
* a module has been left when none of its functions is on the stack any more, and the path comes back to it when it
  then enters it again. Asking another module and going on with the answer is no coming back;
* the store is one module: the engine asks its facade, and what lies behind that calls nothing of the engine. It is
  asked several times, to keep what is found and to give it to the next phase;
* modules below the engine that answer about a file's name or bytes and call nothing above count apart.
"""

import dataclasses
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from florence2.cli import main
from tests.engine.doubles import picture

NAME = "one-picture.png"
SPECIALIST = """
from florence2.records import Parsed, Region

class Small:
    name, version = "small", "1"

    def annotate(self, samples, images):
        return [Parsed(regions=(Region(box=(1, 1, 20, 20), label="thing"),)) for _ in images]
"""


def handles(value, depth=4):
    if isinstance(value, (str, bytes, Path)):
        return NAME in str(value)
    if depth == 0 or isinstance(value, (int, float, type, np.ndarray)):
        return False
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    else:
        is_plain = isinstance(value, (dict, list, tuple, set, frozenset))
        parts = (value.values() if isinstance(value, dict) else value) if is_plain else ()
    return any(handles(part, depth - 1) for part in parts)


def module_of(frame):
    name = frame.f_globals.get("__name__", "")
    return "florence2.store" if name.startswith("florence2.store.") else name


def call_path(argv):
    """(module, function, whether the module was on the stack already) of each first call that handles the picture."""
    seen, path = set(), []

    def on_call(frame, event, arg):
        code, module = frame.f_code, module_of(frame)
        if event != "call" or code in seen or code.co_name.startswith("<") or code.co_filename.startswith("<"):
            return
        if not module.startswith("florence2."):
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        sys.setprofile(None)  # what is asked of the arguments is no part of the path
        if any(handles(frame.f_locals.get(name)) for name in names):
            seen.add(code)
            above, caller = set(), frame.f_back
            while caller is not None:
                above.add(module_of(caller))
                caller = caller.f_back
            path.append((module, code.co_name, module in above))
        sys.setprofile(on_call)

    sys.setprofile(on_call)
    try:
        assert main(argv) == 0
    finally:
        sys.setprofile(None)
    return path


def returns(path):
    """How often the path comes back to each module that it had left."""
    found, entered, last = Counter(), set(), None
    for module, _, on_stack in path:
        if module != last and module in entered and not on_stack:
            found[module] += 1
        entered.add(module)
        last = module
    return found


def test_returns_are_counted():
    path = [("a", "f", False), ("b", "g", False), ("a", "h", True), ("c", "i", False), ("b", "j", False)]
    assert returns(path) == {"b": 1}  # a called b and c; b had been left


def test_a_picture_comes_back_to_few_modules(tmp_path, capsys):
    picture(tmp_path / "pictures", NAME, 0, (64, 48))
    (tmp_path / "small.py").write_text(SPECIALIST)
    argv = ["annotate", str(tmp_path / "pictures"), "--out", str(tmp_path / "s"), "--workers", "0", "--quiet"]
    path = call_path([*argv, "--trust", "--with", f"{tmp_path / 'small.py'}:Small"])
    found, shown = returns(path), "\n".join(f"{module} {name}" for module, name, _ in path)
    names = [name for _, name, _ in path]
    assert {"ingest", "inspect", "put_all", "annotation_rows"} <= set(names), shown  # it went all the way
    of_files = sum(found.pop(module) for module in list(found) if module.startswith("florence2.sources."))
    assert found.total() <= 3, f"{found}\n{shown}"
    assert set(found) <= {"florence2.store"}, f"a room of the engine is entered again: {found}\n{shown}"
    assert of_files <= 4, f"modules about files are asked again {of_files} times\n{shown}"
    assert len({module for module, *_ in path if module.startswith(("florence2.engine.", "florence2.store"))}) <= 16, (
        shown
    )
