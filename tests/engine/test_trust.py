"""A store runs no Python file that its user has not named for it: doors, remedies, and what is remembered where."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

import florence2
from florence2.cli import main
from florence2.engine import specialists, trust
from florence2.engine.ingest.inspection import ImageRules
from florence2.engine.planning.repair import repair
from florence2.store import Store
from tests.engine.doubles import folder_of
from tests.specialists.test_onnx import CARD

OWN = """
from florence2 import Region, Text
open({ran!r}, "a").write(__file__ + "\\n")

class Finder:
    name, version, produces = "finder", "1", ["region_text/object"]
    def annotate(self, samples, images):
        return [[Region(box=(1, 2, 20, 20), label="thing", score=0.8)] for i in images]

class Newer(Finder):
    version = "2"

class Teller:
    name, version, produces, requires = "teller", "1", ["text/brief"], ["region_text/object"]
    def annotate(self, samples, images):
        return [[Text(text="A thing of %d." % len(s.regions))] for s in samples]

def fine(image):
    return ""
"""


@pytest.fixture(autouse=True)
def stranger(tmp_path, monkeypatch):
    """What follows is another user, who has named nothing yet."""

    def change(user):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / user))
        monkeypatch.setattr(trust, "_now", {})
        for name in [name for name in sys.modules if name.startswith("florence2_user_")]:
            del sys.modules[name]

    change("author")
    return change


@pytest.fixture
def given(tmp_path, stranger):
    """A store of another user: Teller has read Finder, both of own.py; `runs()` says how often that file ran since."""
    own, ran = tmp_path / "own.py", tmp_path / "ran"
    own.write_text(OWN.format(ran=str(ran)))
    names = [f"{own}:Finder", f"{own}:Teller"]
    rules = ImageRules(accept=f"{own}:fine")
    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", names, workers=0, rules=rules)
    mine = tmp_path / "mine.py"  # what the new user brings, and reads: it runs nothing of the store's
    mine.write_text(OWN.format(ran=os.devnull).replace('"finder", "1"', '"finder", "3"'))
    stranger("reader")
    ran.unlink()

    def runs():
        return len(ran.read_text().splitlines()) if ran.exists() else 0

    return store, own, mine, runs


def lose(store, name):
    """Delete the annotations of an operator."""
    run = next(o.run_id for o in store.snapshot().operators if o.name == name)
    for fragment in store.snapshot().fragments:
        if fragment.run_id == run:
            os.unlink(store.root / fragment.path)


def test_a_dependent_that_only_the_store_names_does_not_run(given, capsys):
    store, own, mine, runs = given
    assert main(["annotate", str(store.root), "--with", f"{mine}:Finder", "--workers", "0"]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "teller" in line)
    assert str(own) in line and "--trust" in line and "--with" in line
    assert runs() == 0
    assert {t.text for s in store.samples() for t in s.texts} <= {"A thing of 1."}


@pytest.mark.parametrize("how", ["named", "trusted"])
def test_it_runs_once_the_user_has_named_it_or_trusts_the_store(given, capsys, how):
    store, own, mine, runs = given
    if how == "named":  # another class of it, for this store, in another command
        assert main(["annotate", str(store.root), "--with", f"{own}:Finder", "--workers", "0"]) == 0
    options = ["--trust"] if how == "trusted" else []
    command = ["annotate", str(store.root), "--with", f"{mine}:Finder", "--workers", "0"]
    capsys.readouterr()
    assert main([*command, *options]) == 0
    assert "run again, as what they read has changed: teller" in capsys.readouterr().err and runs()


@pytest.mark.parametrize("command", ["annotate", "filter", "refine", "verify"])
def test_trust_is_kept_for_later_commands(given, capsys, command):
    store, own, _, runs = given
    more = {"annotate": ["--with", "opencv", "--workers", "0"], "refine": ["--rounds", "0"]}.get(command, [])
    assert main([command, str(store.root), *more, "--trust"]) == (1 if command == "refine" else 0) and runs() == 0
    lose(store, "teller")
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 0 and runs()


@pytest.mark.parametrize("what", ["teller", "images"])  # a specialist, and the user's rule for pictures
def test_repair_refuses_until_trusted(given, capsys, what):
    store, own, _, runs = given
    before = {f.path: (store.root / f.path).read_bytes() for f in store.snapshot().fragments}
    lose(store, what)
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    err = capsys.readouterr().err
    assert f"{what}: {own}: the store" in err and "--trust" in err and runs() == 0
    assert main(["verify", str(store.root), "--repair", "--workers", "0", "--trust"]) == 0 and runs()
    assert {path: (store.root / path).read_bytes() for path in before} == before


def test_repair_with_the_file_named_runs_it(given):
    store, own, _, runs = given
    lose(store, "teller")
    with_ = f"{own}:Finder,{own}:Teller"
    assert main(["verify", str(store.root), "--repair", "--workers", "0", "--with", with_]) == 0 and runs()


def test_a_file_that_changed_since_it_was_named_is_another(given, capsys):
    store, own, mine, runs = given
    assert main(["annotate", str(store.root), "--with", f"{own}:Finder", "--workers", "0"]) == 0
    count = runs()
    own.write_text(own.read_text() + "\n# and one line\n")
    assert main(["annotate", str(store.root), "--with", f"{mine}:Finder", "--workers", "0"]) == 0
    assert runs() == count and "as it is now" in capsys.readouterr().err


def test_what_is_named_for_one_store_is_not_for_another(given, tmp_path, capsys):
    store, own, mine, runs = given
    shutil.copytree(store.root, tmp_path / "other")
    assert main(["annotate", str(tmp_path / "other"), "--with", f"{own}:Finder", "--workers", "0"]) == 0
    count = runs()
    assert main(["annotate", str(store.root), "--with", f"{mine}:Finder", "--workers", "0"]) == 0
    assert runs() == count and "--trust" in capsys.readouterr().err


def test_a_compiled_file_beside_it_is_not_run(given, tmp_path):
    """Python would take own.pyc for own.py where its time and size are the same."""
    store, own, _, runs = given
    subprocess.run([sys.executable, "-m", "py_compile", str(own)], check=True)
    stat = own.stat()
    own.write_text(own.read_text().replace('"teller", "1"', '"talker", "1"'))
    os.utime(own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = florence2.annotate(tmp_path / "pictures", tmp_path / "t", [f"{own}:Teller"], workers=0)
    assert [o.name for o in again.snapshot().operators if o.kind == "specialist"] == ["talker"]


@pytest.mark.parametrize("nested", [False, True])  # crops of a card's pictures, as a card of its own
def test_a_card_that_the_store_names_runs_no_decoder(given, tmp_path, nested):
    store, own, _, runs = given
    card = tmp_path / "tiny.yaml"
    card.write_text(yaml.safe_dump({**CARD, "output": {"decode": "own.py:fine"}}))
    (tmp_path / "tiny.onnx").write_bytes(b"none")
    name = f"crops:{card}" if nested else str(card)
    with trust.named_by(store.root), pytest.raises(trust.UntrustedCode, match="own.py"):
        specialists.open(name)
    assert not runs()
    named = {}
    with trust.noting(named):
        specialists.open(str(card))
    trust.remember(store.root, named)
    with trust.named_by(store.root):
        assert specialists.open(str(card)).spec.name == "tiny"


def test_what_is_remembered_lies_outside_the_store_and_is_only_added_to(given, tmp_path):
    store, own, _, _ = given
    before = {path for path in store.root.rglob("*")}
    trust.allow(store.root)
    trust.allow(store.root)
    assert {path for path in store.root.rglob("*")} == before
    file = tmp_path / "reader" / "florence2" / "trusted.jsonl"
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"store": str(store.root), "all": True}]
    with open(file, "a") as torn:
        torn.write('{"store": "/else", "a')
    with trust.named_by("/else"), pytest.raises(trust.UntrustedCode):
        from florence2.engine.user_code import load_file

        load_file(own)


def test_a_folder_that_cannot_be_written_is_said(given, tmp_path, monkeypatch):
    store, own, _, _ = given
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    lines = []
    trust.allow(store.root, lines.append)
    assert len(lines) == 1 and "this command alone" in lines[0]
    lose(Store(store.root), "teller")
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 0


def test_a_billed_specialist_runs_only_where_it_is_named(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        OWN.format(ran=os.devnull).replace(
            "    name, version, produces, requires", "    billed = True\n    name, version, produces, requires"
        )
    )
    names = [f"{own}:Finder", f"{own}:Teller"]
    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", names, workers=0)
    before, said = list(store.samples()), []
    lose(store, "teller")
    left = repair(store, store.verify(), workers=0, on_message=said.append)
    assert left and "teller" in said[0] and "is billed; verify --repair --with" in said[0]
    assert repair(store, store.verify(), names[1:], workers=0) == [] and list(store.samples()) == before
    said.clear()
    florence2.annotate(store.root, with_=[f"{own}:Newer"], workers=0, on_message=said.append)
    assert any("teller" in line and "it is billed" in line for line in said)
