"""The wheel alone, in an environment of what its demo extra asks for and no more, predicts with the shipped model."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from florence2 import pixels, scenes

ROOT = Path(__file__).parent.parent
OPENED = """
import cv2, skimage.data, florence2
from florence2.engine import specialists
from florence2.engine.text.parser import Parser
print(florence2.__file__, Parser().parse("A dog runs.")[1].text)
print(*(specialists.open(name).spec.name for name in ("rapidocr", "opencv", "composer")))
"""


def run(*command, cwd):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def needed(lines, extras):
    """The names of the installed distributions that requirements lead to, each checked against its version."""
    found, left = set(), [(line, extra) for line in lines for extra in extras or [""]]
    while left:
        line, extra = left.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        of = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(of.version, prereleases=True), f"{line}, but {of.version} is installed"
        if (name, *sorted(requirement.extras)) not in found:
            found.add((name, *sorted(requirement.extras)))
            left += [(more, e) for more in of.requires or () for e in requirement.extras or [""]]
    return {name for name, *_ in found}


def linked(names, site):
    """Each distribution's top-level folders and files, as links in `site`."""
    for name in names:
        of = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in of.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(of.locate_file(top))


@pytest.mark.slow
def test_wheel_predicts_outside_the_checkout(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("florence2-*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    pages = Path("florence2/serving/pages/static")
    assert {path.name for path in (ROOT / pages).iterdir()} == {path.name for path in (site / pages).iterdir()}
    (said,) = importlib.metadata.distributions(path=[str(site)])
    names = needed(said.requires, ["demo"])
    assert {"torch", "numpy", "rapidocr", "spacy"} <= names
    assert not names & {"torchvision", "timm", "transformers", "opencv-python", "ray"}
    linked(names, site)

    image, sample = scenes.draw(2**31 + 5)
    (tmp_path / "scene.png").write_bytes(pixels.encode(image))
    python = tmp_path / "venv/bin/python"
    out = run(python, "-m", "florence2", "predict", "scene.png", "--task", "OD", "--json", cwd=tmp_path)
    answer = json.loads(out.strip().splitlines()[-1])
    assert tuple(answer["size_wh"]) == image.shape[1::-1] == sample.image.size_wh
    boxes = np.array([region["box"] for region in answer["regions"]])
    assert len(boxes) and (boxes[:, 2:] >= boxes[:, :2]).all()
    opened = run(python, "-c", OPENED, cwd=tmp_path).split()
    assert opened == [str(site / "florence2" / "__init__.py"), "dog", "rapidocr", "opencv", "composer"]
