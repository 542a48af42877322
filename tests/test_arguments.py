"""What callers of the Python API give wrongly is refused in one line that names the argument."""

import math
from pathlib import Path

import numpy as np
import pytest

import florence2
from florence2 import arguments
from florence2.engine.commands import import_labels, relocate
from florence2.engine.export import export_labels
from tests.engine.doubles import Boxes, Floor, folder_of

NO_WHOLE = [True, -1, 2.5, math.nan, math.inf, "x", b"x", [], [1], {}, np.bool_(True), np.float32(2), object(), 1j]
NO_PATH = [True, 5, 2.5, b"x", [], {}, "\ud800", "a\0b", np.int64(3), object()]
NO_LIST = [True, 5, 2.5, b"x", {"a": 1}, [1], [None], np.int64(3), object()]


def refused(call, name):
    with pytest.raises((ValueError, OSError)) as refusal:
        call()
    line = str(refusal.value)
    assert len(line.splitlines()) == 1 and len(line) <= 1000 and name in line, line
    assert type(refusal.value) is not UnicodeEncodeError


@pytest.mark.parametrize("value", [0, 3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_library_are_taken(value):
    found = arguments.whole("n", value, least=0, most=3)
    assert found == value and type(found) is int


@pytest.mark.parametrize("value", [*NO_WHOLE, 4, 10**30, None])
def test_what_is_no_whole_number_in_bounds_is_refused(value):
    refused(lambda: arguments.whole("n", value, 0, 3), "n: expected a whole number from 0 to 3, got ")


@pytest.mark.parametrize("value", [0, -1, True, math.nan, math.inf, "1", b"1", None, [], 1j, 10**400])
def test_what_is_no_number_above_zero_is_refused(value):
    refused(lambda: arguments.above_zero("s", value), "s: expected a number above zero, got ")


@pytest.mark.parametrize("value", [*NO_PATH, None])
def test_what_is_no_path_is_refused(value):
    refused(lambda: arguments.path("out", value), "out: expected a path, got ")
    assert arguments.path("out", Path("a/\udce9")) == "a/\udce9"  # a name that is no Unicode, as the system gives it


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("arguments")
    line = '{"id": "0", "image": {"id": "0", "uri": "pictures/p0000.png"}}'
    (root / "labels.jsonl").write_text(line + "\n")
    return florence2.annotate(folder_of(root, 2), root / "s", [Boxes()], workers=0)


CALLS = {  # argument -> values that are refused, and the call that is given them
    "unit": ([*NO_WHOLE, 0], lambda s, **v: florence2.annotate(s.root.parent / "pictures", s.root, [], workers=0, **v)),
    "workers": (NO_WHOLE, lambda s, **v: florence2.annotate(s.root, with_=[], **v)),
    "attempts": ([*NO_WHOLE, 0], lambda s, **v: florence2.annotate(s.root, with_=[], workers=0, **v)),
    "lease_s": ([0, -1, math.nan, "x"], lambda s, **v: florence2.annotate(s.root, with_=[], workers=0, **v)),
    "with_": (NO_LIST, lambda s, **v: florence2.annotate(s.root, workers=0, **v)),
    "rules": ([value for value in NO_LIST if value != {"a": 1}], lambda s, **v: florence2.filter(s.root, **v)),
    "out": (NO_PATH, lambda s, **v: florence2.annotate(s.root.parent / "pictures", with_=[], workers=0, **v)),
    "src": (NO_LIST, lambda s, src: florence2.annotate(src, s.root, [], workers=0)),
    "store": (NO_PATH, lambda s, store: florence2.filter(store, [Floor(0.5)])),
    "snapshot": ([*NO_WHOLE, 10**30], lambda s, snapshot: s.snapshot(snapshot)),
    "to": (NO_WHOLE[2:], lambda s, **v: s.undo(**v)),
    "rows": ([*NO_WHOLE, 0], lambda s, **v: s.compact(**v)),
    "limit": (NO_WHOLE, lambda s, **v: list(s.samples(**v))),
    "columns": (NO_LIST, lambda s, **v: s.table("images", **v)),
    "old": (NO_PATH, lambda s, **v: relocate(s, new="x", **v)),
    "new": (NO_PATH, lambda s, **v: relocate(s, old=s.root.parent, **v)),
    "images": (NO_PATH, lambda s, **v: import_labels(s.root.parent / "labels.jsonl", s.root, workers=0, **v)),
    "rounds": ([*NO_WHOLE, 0], lambda s, **v: florence2.refine(s, **v)),
    "folds": ([*NO_WHOLE, 0], lambda s, **v: florence2.refine(s, **v)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_and_the_store_stays_as_it_was(store, name):
    before = store.snapshots()
    values, call = CALLS[name]
    for value in values:
        refused(lambda value=value: call(store, **{name: value}), name)
    assert store.snapshots() == before and store.verify() == []


@pytest.mark.parametrize("value", NO_PATH)
def test_an_export_goes_to_a_path(store, value):
    refused(lambda: export_labels(store, "coco", value), "out: expected a path")
