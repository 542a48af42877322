"""What labels and names hold never commands the terminal."""

import json

import numpy as np

from florence2 import pixels
from florence2.cli import main
from florence2.cli.terminal import printable
from florence2.formats import jsonl
from florence2.records import ImageRef, Region, Sample

EVIL = "\x1b]0;owned\x07\x1b[31mcat\x9b31m\x7f"


def test_control_characters_are_escapes():
    assert printable(EVIL) == "\\u001b]0;owned\\u0007\\u001b[31mcat\\u009b31m\\u007f"
    assert printable("a\tb\nstra\u00dfe") == "a\tb\nstra\u00dfe"


def test_no_command_prints_what_a_label_commands(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(pixels.encode(np.zeros((40, 50, 3), np.uint8)))
    region = Region("r", box=(1.0, 2.0, 30.0, 30.0), label=EVIL)
    sample = Sample(f"s{EVIL}", ImageRef("a.png", str(tmp_path / "a.png")), regions=(region,), split=EVIL)
    jsonl.write([sample], tmp_path / "in")
    store = str(tmp_path / "s")
    for command in (
        ["import", str(tmp_path / "in"), "--out", store, "--workers", "0"],
        ["data", "stats", store],
        ["data", "show", str(tmp_path / "in"), "--task", "OD"],
        ["data", "show", str(tmp_path / "in"), "--task", "OD", "--json"],
        ["data", "check", str(tmp_path / "in"), "--task", "OD"],
        ["export", store, "--to", "voc", "--out", str(tmp_path / "out")],
        ["import", str(tmp_path / EVIL.replace("/", "")), "--out", store],
        [EVIL],
    ):
        main(command)
        shown = "".join(capsys.readouterr())
        assert shown and not set(shown) & set("\x1b\x07\x9b\x7f"), command
        if command[-1] == "--json":
            assert "cat" in shown and all(json.loads(line) for line in shown.splitlines())
