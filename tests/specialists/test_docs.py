"""docs/specialists.md is true: its own specialist runs, its cards open, its table of rules is the table."""

import re
from pathlib import Path

import numpy as np
import yaml

from florence2.engine import specialists
from florence2.engine.curation.filters.rules import RULES
from florence2.engine.specialists.cards import read_card
from florence2.records import ImageRef, Sample

PAGE = (Path(__file__).parents[2] / "docs" / "specialists.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_ten_lines_run(tmp_path):
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "my_file.py").write_text(code)
    own = specialists.open(f"{tmp_path / 'my_file.py'}:Brightness")
    own.setup("cpu")
    sample = Sample("a", ImageRef("a"))
    dark, bright = own.annotate([sample, sample], [np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    assert (dark.texts[0].text, bright.texts[0].text) == ("A dark picture.", "A bright picture.")


def test_the_cards_open(tmp_path):
    detector, owl, writer = blocks("yaml")
    (tmp_path / "yolox_nano.onnx").write_bytes(b"")
    (tmp_path / "coco.names").write_text("cat\ndog\n")
    (tmp_path / "detector.yaml").write_text(detector)
    assert read_card(tmp_path / "detector.yaml").classes == ("cat", "dog")
    for name, text in (("owl", owl), ("writer", writer)):
        (tmp_path / f"{name}.yaml").write_text(text)
        assert specialists.open(str(tmp_path / f"{name}.yaml")).spec.name == name


def test_every_name_is_on_the_page():
    for name in (*specialists.SPECIALISTS, *specialists.WITH_ARGUMENT):
        assert f"`{name}" in PAGE, name


def test_the_rules_on_the_page_are_the_rules():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| `(.*?)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == list(RULES)
    for name, reason, unit, defaults, says in rows:
        rule = RULES[name]
        assert (reason, unit, says) == (rule.reason, rule.unit, rule.says)
        shown = yaml.safe_load("{" + defaults + "}")
        assert shown == {key: value for key, value in rule.settings.items() if key != "parser"}, name
