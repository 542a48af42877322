"""verify --repair makes every kind of fragment again, to the byte, from runs/ alone."""

import shutil

import florence2
from florence2.cli import main
from florence2.engine.filters import RULES
from florence2.engine.merge import Merging
from florence2.engine.repair import repair
from florence2.store import Store
from tests.engine.doubles import folder_of, fragments

OWN = """
from florence2.records import Region, Text
class Mine:
    name, version, requires = "mine", "{version}", ()
    def setup(self, device): pass
    def annotate(self, samples, images):
        return [[Region(box=(1 + int(i[0, 0, 0]) % 9, 2, 20, 20), label="thing", score=0.2 + int(i[0, 0, 1]) / 400),
                 Text(text="A dog runs over a green field.", score=0.5)] for i in images]
class Other(Mine):
    name = "other"
    def annotate(self, samples, images):
        return [[Region(box=(2, 2, 21, 20), label="thing", score=0.7)] for i in images]
"""


def full_store(tmp_path):
    folder = folder_of(tmp_path, 7)
    own = tmp_path / "own.py"
    own.write_text(OWN.format(version=1))
    names = [f"{own}:Mine", f"{own}:Other"]
    store = florence2.annotate(folder, tmp_path / "s", names, unit=3, workers=0)
    own.write_text(OWN.format(version=2))
    florence2.annotate(folder, tmp_path / "s", names, unit=3, workers=0)
    without_parser = {name: "parser" not in rule.settings for name, rule in RULES.items()}
    florence2.filter(store, without_parser, merging=Merging())
    return store


def test_every_fragment_is_made_again(tmp_path):
    store = full_store(tmp_path)
    kinds = {operator.kind for operator in store.snapshot().operators}
    assert kinds == {"images", "specialist", "filter", "merge", "recomputed"}
    before = fragments(store)
    live = {o.run_id for o in store.snapshot().operators if not o.replaced}
    victims = [f.path for f in store.snapshot().fragments if f.run_id in live]
    for path in victims[::2]:
        (store.root / path).unlink()
    for path in victims[1::2]:
        (store.root / path).write_bytes(b"PAR1 no more")
    assert repair(store, store.verify(), workers=0) == []
    assert fragments(store) == before


def test_compacted_files_are_made_again_from_the_small_ones(tmp_path):
    store = full_store(tmp_path)
    store.compact(rows=20)
    path = store.paths("annotations")[0]
    good = open(path, "rb").read()
    open(path, "wb").write(good[:-10])
    assert [d.cause for d in store.verify()] == ["changed"]
    assert repair(store, store.verify(), workers=0) == []
    assert open(path, "rb").read() == good


def test_the_command_names_what_is_damaged_and_what_it_cannot_make_again(tmp_path, capsys):
    store = full_store(tmp_path)
    assert main(["verify", str(store.root)]) == 0
    victim = next(f.path for f in store.snapshot().of("annotations"))  # of version 1, which is no more
    (store.root / victim).unlink()
    assert main(["verify", str(store.root)]) == 1
    assert f"{victim}: missing" in capsys.readouterr().out
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    said = capsys.readouterr()
    assert "is no longer what it was" in said.err and "1 damaged or missing" in said.out
    shutil.rmtree(tmp_path / "pictures")
    image = store.snapshot().of("images")[0].path
    (Store(store.root).root / image).unlink()
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    assert "is gone; put it back" in capsys.readouterr().err
