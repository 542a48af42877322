"""Which specialist a name means, and what it is called from any folder.

A name is a row of SPECIALISTS (`rapidocr`), a row of WITH_ARGUMENT and its argument (`student:nano`), a card
(`detector.yaml`: an ONNX detector, or any specialist with its settings, and with a `name:` of its own where two of one
kind work on a store, and `read: all` where it is to read rejected annotations too), or a class of your own
(`my_file.py:MyClass`).
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from florence2.engine.operator import Specialist
from florence2.engine.specialists.cards import read_yaml

SPECIALISTS: Mapping[str, str] = MappingProxyType(
    {
        "rapidocr": "florence2.engine.specialists.rapidocr:RapidOcr",
        "tesseract": "florence2.engine.specialists.tesseract:Tesseract",
        "opencv": "florence2.engine.specialists.opencv:OpenCv",
        "composer": "florence2.engine.specialists.composer:Composer",  # captions from regions
        "grounder": "florence2.engine.specialists.grounder:Grounder",  # phrases of captions in boxes
        "grabcut": "florence2.engine.specialists.masks:GrabCut",  # masks from boxes
        "azure": "florence2.engine.specialists.azure:Azure",  # billed
    }
)
WITH_ARGUMENT: Mapping[str, str] = MappingProxyType(
    {  # NAME:ARGUMENT
        "student": "florence2.engine.specialists.student:StudentSpecialist",  # any Florence-2: nano, a folder, a hub id
        "region-texts": "florence2.engine.specialists.region_texts:RegionTexts",  # which text describes a region best
        "simulated": "florence2.engine.specialists.simulated:Simulated",  # a truth file
        "tesseract": "florence2.engine.specialists.tesseract:Tesseract",  # the folder of eng.traineddata
        "crops": "florence2.engine.specialists.crops:Crops",  # the specialist that describes each region's crop
        # transformers models, by hub id or folder
        "detection": "florence2.engine.specialists.object_detection:ObjectDetection",
        "owl": "florence2.engine.specialists.owl:Owl",
        "grounding-dino": "florence2.engine.specialists.grounding_dino:GroundingDino",
        "sam": "florence2.engine.specialists.sam:Sam",
        "captioning": "florence2.engine.specialists.captioning:Captioning",
        "similarity": "florence2.engine.specialists.similarity:Similarity",
        "writer": "florence2.engine.specialists.writer:Writer",  # a language model behind an OpenAI-compatible server
    }
)
CARD = "florence2.engine.specialists.onnx:OnnxDetector"
USER_SPECIALIST = "florence2.engine.specialists.user_specialist:UserSpecialist"
CARD_PATHS = ("model", "path", "folder", "cache", "of")  # settings of a card that may be paths relative to it


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
        return _from_card(Path(name))
    path, _, class_name = name.rpartition(":")
    if path.endswith(".py") and class_name:
        return _opener(USER_SPECIALIST)(path, class_name)
    raise UnknownSpecialist(f"specialist {name!r}: unknown name; {_known()}")


def as_specialist(given: Any) -> Specialist:
    """What a name means, or an object: as it is, or a user's own, or one whose class a worker could not import."""
    if isinstance(given, str):
        return open(given)
    if isinstance(given, Specialist) and type(given).__module__ != "__main__":
        return given
    return _opener(f"{USER_SPECIALIST}.of")(given)


def _from_card(path: Path) -> Specialist:
    """An ONNX detector's card, or `specialist: NAME` with the settings of that specialist."""
    data = read_yaml(path)
    if "specialist" not in data:
        return _opener(CARD)(str(path))
    name, settings = str(data["specialist"]), {k: v for k, v in data.items() if k not in ("specialist", "name", "read")}
    target = WITH_ARGUMENT.get(name) or SPECIALISTS.get(name)
    if target is None:
        raise UnknownSpecialist(f"{path}: specialist: unknown name {name!r}; {_known()}")
    opener = _opener(target)
    known = list(inspect.signature(opener).parameters)
    unknown = [key for key in settings if key not in known]
    if unknown:
        expected = f"expected some of {', '.join(('name', *known))}"
        raise ValueError(f"{path}: unknown key {unknown[0]!r} for {name}; {expected}")
    for key in CARD_PATHS:
        if isinstance(settings.get(key), str) and (path.parent / settings[key]).exists():
            settings[key] = str(path.parent / settings[key])
    try:
        found = opener(**settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if "read" in data:
        if data["read"] != "all" or not found.spec.requires:
            what = "expected all" if found.spec.requires else f"{name} reads no annotations; leave the key out"
            raise ValueError(f"{path}: read: {what}, got {data['read']!r:.40}")
        found.spec = dataclasses.replace(found.spec, reads_all=True)
        found.config = {**found.config, "read": "all"}
    if "name" in data:
        if not isinstance(data["name"], str) or not data["name"].strip():
            raise ValueError(f"{path}: name: expected a word, got {data['name']!r}")
        found.spec = dataclasses.replace(found.spec, name=data["name"].strip())
    return found


def absolute(name: str) -> str:
    """The same specialist's name with the paths in it made absolute, so that it opens from any folder."""
    if name in SPECIALISTS:
        return name
    head, _, rest = name.partition(":")
    if head in WITH_ARGUMENT and rest:
        return f"{head}:{absolute(rest)}"
    path, _, own = name.rpartition(":")
    if path.endswith(".py"):
        return f"{Path(path).resolve()}:{own}"
    return str(Path(name).resolve()) if Path(name).exists() else name


def _opener(target: str) -> Callable[..., Any]:
    module, name = target.split(":")
    return attrgetter(name)(importlib.import_module(module))


def _known() -> str:
    names = [*SPECIALISTS, *(f"{name}:..." for name in WITH_ARGUMENT), "CARD.yaml", "FILE.py:CLASS"]
    return "use one of " + ", ".join(names)
