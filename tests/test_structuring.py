"""Plain data becomes typed dataclasses, or is refused in one line that names the place and the value."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from florence2.structuring import Mismatch, parse_json, structure


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.size[0] < 1:
            raise Mismatch(f"expected at least 1, got {self.size[0]}", "size")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float = 0.5
    title: str = ""
    flag: bool = False
    either: bool | str = False
    limit: float | None = None
    parts: list[Inner] = dataclasses.field(default_factory=list)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    file: Path | None = None
    free: Any = None


GOOD = {"inner": {"size": [3, 4]}}

FITS = [  # settings?, data beside GOOD, the field, its value
    (False, {"rate": 2}, "rate", 2.0),
    (False, {"limit": None}, "limit", None),
    (False, {"either": "text"}, "either", "text"),
    (False, {"either": True}, "either", True),
    (False, {"inner": {"size": (1.0, 2)}}, "inner", Inner((1, 2))),  # a whole number may be written 1.0
    (False, {"inner": Inner((5, 6))}, "inner", Inner((5, 6))),  # made already
    (False, {"parts": [{"size": [1, 2], "names": ["a"]}]}, "parts", [Inner((1, 2), ("a",))]),
    (False, {"weights": {"a": 1}}, "weights", {"a": 1.0}),
    (False, {"free": {"any": [1]}}, "free", {"any": [1]}),
    (False, {"file": "a/b"}, "file", Path("a/b")),
    (True, {"rate": "1e-4"}, "rate", 1e-4),  # YAML 1.1 takes it for text
    (True, {"title": 7}, "title", "7"),
    (True, {"weights": {1: 2}}, "weights", {"1": 2.0}),
]

REFUSED = [  # settings?, data beside GOOD, the refusal
    (False, {"rat": 1}, "x.yaml: rat: unknown key; expected one of inner, rate, title"),
    (False, {"two\nlines": 1}, "x.yaml: 'two\\nlines': unknown key"),
    (False, {"inner": {}}, "x.yaml: inner.size: missing"),
    (False, {"inner": 3}, "x.yaml: inner: expected keys and values, got 3"),
    (False, {"inner": {"size": [1]}}, "x.yaml: inner.size: expected 2 values, got 1"),
    (False, {"inner": {"size": [1, "b"]}}, "x.yaml: inner.size[1]: expected a whole number, got 'b'"),
    (False, {"inner": {"size": [0, 1]}}, "x.yaml: inner.size: expected at least 1, got 0"),  # its own check
    (False, {"parts": [GOOD["inner"], {"size": "ab"}]}, "x.yaml: parts[1].size: expected a list of 2 values"),
    (False, {"weights": {"a b": None}}, "x.yaml: weights.'a b': expected a number, got null"),
    (False, {"rate": True}, "x.yaml: rate: expected a number, got True"),
    (False, {"rate": "1e-4"}, "x.yaml: rate: expected a number, got '1e-4'"),  # not in JSON
    (False, {"title": 7}, "x.yaml: title: expected text, got 7"),
    (False, {"flag": 1}, "x.yaml: flag: expected true or false, got 1"),
    (False, {"title": b"\0" * 10**6}, "x.yaml: title: expected text, got b"),  # short, whatever came
    (True, {"rate": float("nan")}, "x.yaml: rate: expected a number, got nan"),
    (True, {"title": True}, "x.yaml: title: expected text, got True"),
    (True, {"inner": {"size": [1.5, 2]}}, "x.yaml: inner.size[0]: expected a whole number, got 1.5"),
]


@pytest.mark.parametrize("settings, data, field, value", FITS)
def test_what_fits_is_converted(settings, data, field, value):
    found = structure(Outer, {**GOOD, **data}, "x.yaml", settings)
    assert getattr(found, field) == value and type(getattr(found, field)) is type(value)


@pytest.mark.parametrize("settings, data, message", REFUSED)
def test_what_does_not_fit_is_refused_with_its_place_and_value(settings, data, message):
    with pytest.raises(ValueError) as caught:
        structure(Outer, {**GOOD, **data}, "x.yaml", settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_value_alone_is_named_by_its_key():
    assert structure(dict[str, float], {"a": 1}, "x.yaml", key="max") == {"a": 1.0}
    with pytest.raises(ValueError, match=r"^x.yaml: max\.a: expected a number, got 'b'$"):
        structure(dict[str, float], {"a": "b"}, "x.yaml", key="max")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[" * 200_000 + "]" * 200_000, "1" * 5000, b'"\xff"', "", "{"], ids=range(6)
)
def test_whatever_is_wrong_with_json_is_one_error(text):
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)
    assert parse_json(b'{"a": [1.5]}') == {"a": [1.5]}
