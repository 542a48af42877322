"""Specialists by name, a user's own among them."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import florence2
from florence2.engine import specialists
from florence2.engine.operator import Specialist
from florence2.records import Failure, ImageRef, Parsed, Sample
from tests.engine.doubles import folder_of

OWN = """
from florence2 import Failure, Region

class Corner:
    name, version = "corner", "3"
    requires = ("box",)
    def annotate(self, samples, images):
        return [[Region(box=(0, 0, 5, 5), label=f"saw {len(s.regions)}", score=0.5)] for s in samples]

class Refuses:
    name, version = "refuses", "1"
    def annotate(self, samples, images):
        return [Failure(reason="dark") for _ in samples]

class Short:
    name, version = "short", "1"
    def annotate(self, samples, images):
        return []

class Wrong:
    name, version = "wrong", "1"
    def annotate(self, samples, images):
        return ["a dog" for _ in samples]

class Nameless:
    version = "1"
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def picture():
    return Sample("a", ImageRef("a", "a.png", width=10, height=8)), np.zeros((8, 10, 3), np.uint8)


@pytest.mark.parametrize("name", ["rapidocr", "opencv", "composer"])
def test_every_name_of_the_table_opens_a_specialist_that_has_loaded_nothing(name):
    found = specialists.open(name)
    assert isinstance(found, Specialist)
    assert found.spec.name == name and found.spec.version and found.spec.produces


@pytest.mark.parametrize(
    "name, expected",
    [
        ("rapidocrr", "rapidocr, tesseract, opencv"),  # a slip lists the names
        ("student:", "student:ARGUMENT"),
        ("simulated:none.jsonl", "none.jsonl"),
        ("none.yaml", "none.yaml"),
        ("none.py:Class", "none.py"),
        ("", "unknown name"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(name, expected):
    with pytest.raises((ValueError, OSError)) as error:
        specialists.open(name)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_own_class_is_a_specialist(own):
    found = specialists.open(f"{own}:Corner")
    assert (found.spec.name, found.spec.version, found.spec.requires) == ("corner", "3", frozenset({"box"}))
    found.setup("cpu")
    sample, image = picture()
    (result,) = found.annotate([sample], [image])
    assert isinstance(result, Parsed) and result.regions[0].label == "saw 0"
    found.close()


def test_own_class_may_fail_a_picture(own):
    sample, image = picture()
    (result,) = specialists.open(f"{own}:Refuses").annotate([sample], [image])
    assert isinstance(result, Failure) and result.reason == "dark"


@pytest.mark.parametrize(
    "name, expected",
    [("Short", "expected 1 results"), ("Wrong", "list of Regions"), ("Nameless", "name"), ("Gone", "Corner")],
)
def test_own_class_that_does_not_fit_is_refused_by_name(own, name, expected):
    sample, image = picture()
    with pytest.raises(ValueError, match=expected):
        specialists.open(f"{own}:{name}").annotate([sample], [image])


def test_own_weights_and_code_enter_the_hash(own):
    before = specialists.open(f"{own}:Corner").weights_sha256
    own.write_text(OWN + "# changed\n")
    assert specialists.open(f"{own}:Corner").weights_sha256 != before


NOTEBOOK = """
import sys
import florence2
from florence2 import Text

class Brightness:
    name, version = "brightness", "1"
    produces = ["text/brief"]

    def annotate(self, samples, images):
        words = ["A dark picture." if image.mean() < WORD else "A bright picture." for image in images]
        return [[Text(text=word, score=0.9)] for word in words]

store = florence2.annotate(sys.argv[1], sys.argv[2], [Brightness()], workers=int(sys.argv[3]), unit=1)
print([text.text for sample in store.samples() for text in sample.texts], len(store.snapshot().operators))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_specialist_written_in_a_notebook_works(tmp_path, workers):
    """A class of `__main__`, which has no file, travels to the workers; other code is another specialist."""
    folder = folder_of(tmp_path, 2)

    def run(code):
        arguments = [sys.executable, "-", str(folder), str(tmp_path / "store"), str(workers)]
        out = subprocess.run(arguments, input=code, capture_output=True, text=True)
        assert not out.returncode, out.stderr
        return out.stdout.strip()

    assert run(NOTEBOOK.replace("WORD", "300")) == "['A dark picture.', 'A dark picture.'] 2"
    assert run(NOTEBOOK.replace("WORD", "300")) == "['A dark picture.', 'A dark picture.'] 2"
    assert run(NOTEBOOK.replace("WORD", "0")).startswith("['A bright picture.', 'A bright picture.']")


def test_an_object_that_is_none_or_cannot_travel_is_refused_by_name(tmp_path):
    folder = folder_of(tmp_path, 1)

    class Half:
        name = "half"

        def annotate(self, samples, images):
            return [[] for _ in samples]

    with pytest.raises(ValueError, match=r"Half\.version, found none"):
        florence2.annotate(folder, tmp_path / "s", [Half()])
    Half.version = "1"
    held = Half()
    held.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Half: cannot be sent to a worker .* FILE\.py:CLASS"):
        florence2.annotate(folder, tmp_path / "s", [held])
    assert florence2.annotate(folder, tmp_path / "s", [held], workers=0).counts()["images"]["ok"] == 1
