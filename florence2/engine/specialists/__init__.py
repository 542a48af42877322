"""Every specialist by name. One file a specialist; a heavy library is imported by its file alone, when it is set up.

rapidocr, opencv, composer      by their name
simulated:TRUTH.jsonl           a file's truth, with a stated noise
student:MODEL                   any Florence-2 that `florence2.load` opens
detector.yaml                   an ONNX detector described by a card
my_file.py:MyClass              your own
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from florence2.engine.operator import Specialist

SPECIALISTS: Mapping[str, str] = MappingProxyType(
    {
        "rapidocr": "florence2.engine.specialists.rapidocr:RapidOcr",
        "opencv": "florence2.engine.specialists.opencv:OpenCv",
        "composer": "florence2.engine.specialists.composer:Composer",
        "tesseract": "florence2.engine.specialists.tesseract:Tesseract",
    }
)
WITH_ARGUMENT: Mapping[str, str] = MappingProxyType(  # NAME:ARGUMENT
    {
        "simulated": "florence2.engine.specialists.simulated:Simulated",
        "student": "florence2.engine.specialists.student:Student",
        "tesseract": "florence2.engine.specialists.tesseract:Tesseract",
    }
)
CARD = "florence2.engine.specialists.onnx:OnnxDetector"
OWN = "florence2.engine.specialists.own:Own"

DEFAULT = ("rapidocr", "opencv")


class UnknownSpecialist(ValueError):
    """A name that opens no specialist."""


def open(name: str) -> Specialist:  # noqa: A001  the house verb for "by name"
    """The specialist that `name` means; cheap: nothing is loaded before its `setup`."""
    head, _, argument = name.partition(":")
    if name in SPECIALISTS:
        return _opener(SPECIALISTS[name])()
    if head in WITH_ARGUMENT:
        if not argument:
            raise UnknownSpecialist(f"specialist {name!r}: expected {head}:ARGUMENT, got no argument; {_known()}")
        return _opener(WITH_ARGUMENT[head])(argument)
    if Path(name).suffix in (".yaml", ".yml"):
        return _opener(CARD)(name)
    path, _, class_name = name.rpartition(":")
    if path.endswith(".py") and class_name:
        return _opener(OWN)(path, class_name)
    raise UnknownSpecialist(f"specialist {name!r}: unknown name; {_known()}")


def open_all(names: str) -> list[Specialist]:
    """The specialists of a comma-separated list, in its order."""
    return [open(name.strip()) for name in names.split(",") if name.strip()]


def _opener(target: str) -> Callable[..., Any]:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def _known() -> str:
    names = [*SPECIALISTS, *(f"{name}:..." for name in WITH_ARGUMENT), "CARD.yaml", "FILE.py:CLASS"]
    return "use one of " + ", ".join(names)
