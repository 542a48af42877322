"""verify finds every kind of damage; repair makes every kind of fragment again, to the byte, and only that unit."""

import json
import os
import shutil

import pytest

import florence2
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.curation.filters.rules import RULES
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.planning.repair import repair
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, folder_of, fragments

OWN = """
from florence2.records import Region, Text
class Mine:
    name, version, requires = "mine", "{version}", ()
    def annotate(self, samples, images):
        with open("{asked}", "a") as file:
            file.write("".join(sample.id + "\\n" for sample in samples))
        return [[Region(box=(1 + int(i[0, 0, 0]) % 9, 2, 20, 20), label="thing", score=0.2 + int(i[0, 0, 1]) / 400),
                 Text(text="A dog runs over a green field.", score=0.5)] for i in images]
class Other(Mine):
    name = "other"
    def annotate(self, samples, images):
        return [[Region(box=(2, 2, 21, 20), label="thing", score=0.7)] for i in images]
"""
WITHOUT_PARSER = {name: "parser" not in rule.settings for name, rule in RULES.items()}


def own_names(tmp_path, version=1):
    (tmp_path / "own.py").write_text(OWN.format(version=version, asked=tmp_path / "asked"))
    return [f"{tmp_path / 'own.py'}:{name}" for name in ("Mine", "Other")]


def full_store(tmp_path):
    """Every kind of operator: images, an import, specialists of two versions, rules, merging, verdicts on versions."""
    folder = folder_of(tmp_path, 7)
    with open(tmp_path / "labels.jsonl", "w") as file:
        for n in range(7):
            regions = [{"id": "r", "box": [1, 1, 9 + n, 9], "label": "cup"}]
            file.write(json.dumps({"id": str(n), "image": {"id": str(n), "uri": f"pictures/p{n:04}.png"},
                                   "regions": regions}) + "\n")  # fmt: skip
    import_labels(tmp_path / "labels.jsonl", tmp_path / "s", unit=3, workers=0)
    (tmp_path / "more").mkdir()
    shutil.copy(folder_of(tmp_path / "b", 2, start=20) / "p0020.png", tmp_path / "more" / "new.png")
    (tmp_path / "more" / "broken.png").write_bytes(b"\x89PNG")
    for version in (1, 2):
        names = own_names(tmp_path, version)
        florence2.annotate(tmp_path / "s", with_=names, unit=3, workers=0)
        store = florence2.annotate(tmp_path / "more", tmp_path / "s", names, unit=3, workers=0)
    assert len(list(folder.iterdir())) == 7
    florence2.filter(store, WITHOUT_PARSER, merging=MergeConfig())
    return store


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DEEDS = {
    "flipped": (flip, "changed"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "changed"),
    "emptied": (lambda path: path.write_bytes(b""), "changed"),
    "deleted": (lambda path: path.unlink(), "missing"),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    root = tmp_path_factory.mktemp("full")
    store = full_store(root)
    kinds = {operator.kind for operator in store.snapshot().operators}
    assert kinds == {"images", "import", "specialist", "filter", "merge", "recomputed"}
    assert {f.table for f in store.snapshot().fragments} == {"images", "annotations", "decisions", "failures"}
    return root


def victims(store):
    """A fragment of each (operator, table) whose operator is as it was."""
    live = {o.run_id: o.kind for o in store.snapshot().operators if not o.replaced}
    found = {(live[f.run_id], f.run_id, f.table): f.path for f in store.snapshot().fragments if f.run_id in live}
    return sorted(found.values())


@pytest.mark.parametrize("deed", DEEDS)
def test_every_kind_of_fragment_is_made_again_after_every_kind_of_damage(full, deed):
    store = Store(full / "s")
    before = fragments(store)
    spoil, cause = DEEDS[deed]
    chosen = victims(store)
    for path in chosen:
        spoil(store.root / path)
    assert {(d.path, d.cause) for d in store.verify()} == {(path, cause) for path in chosen}
    assert repair(store, store.verify(), workers=0) == []
    assert fragments(store) == before


def test_only_the_damaged_unit_is_run_again_from_any_folder(full, monkeypatch, tmp_path):
    store = Store(full / "s")
    operator = next(o for o in store.snapshot().operators if o.name == "mine" and not o.replaced)
    victim = next(f for f in store.snapshot().of("annotations") if f.run_id == operator.run_id)
    in_unit = sum(row.unit in victim.units for row in store.images() if row.status == "ok")
    (full / "asked").unlink()
    (store.root / victim.path).unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 0
    assert len((full / "asked").read_text().split()) == in_unit < 7


def test_what_was_given_as_an_object_is_made_again_when_it_is_given_again(tmp_path):
    told = []
    store = florence2.annotate(folder_of(tmp_path, 4), tmp_path / "s", [Boxes()], unit=2, workers=0)
    florence2.filter(store, [Floor(0.5)])
    before = fragments(store)
    for table in ("annotations", "decisions"):
        os.unlink(store.paths(table)[0])
    left = repair(store, store.verify(), workers=0, on_message=told.append)
    assert [d.path.split("/")[0] for d in left] == ["annotations", "decisions"]
    assert "boxes: was given as an object" in told[0] and "with_=[...]" in told[0]
    assert "'floor' of round 0 is none of the shipped" in told[1] and "rules=[...]" in told[1]
    told.clear()
    left = repair(store, store.verify(), [Boxes(version="2")], [Floor(0.6)], workers=0, on_message=told.append)
    assert len(left) == 2 and all("is no longer what it was" in line for line in told)
    assert repair(store, store.verify(), [Boxes()], [Floor(0.5)], workers=0) == [] and fragments(store) == before


def test_what_lost_its_start_is_named_and_what_needs_none_is_made_again(full, tmp_path):
    store = Store(shutil.copytree(full / "s", tmp_path / "s"))
    kinds = {o.run_id: o.kind for o in store.snapshot().operators}
    runs = {f.path: kinds[f.run_id] for f in store.snapshot().fragments if f.run_id in kinds}
    started = {path for path in victims(store) if runs[path] in ("images", "import", "specialist")}
    for path in [*store.root.glob("runs/*/*.json"), *(store.root / path for path in set(victims(store)) - started)]:
        path.unlink()
    left = repair(store, store.verify(), workers=0)
    assert left and all(d.path.startswith("runs/") for d in left) and store.verify() == []
    for path in started:
        (store.root / path).unlink()
    told = []
    left = repair(store, store.verify(), workers=0, on_message=told.append)
    assert {d.path for d in left} == started and {runs[path] for path in started} == {"images", "import", "specialist"}
    assert all("on what it was started is lost with runs/" in line and "\n" not in line for line in told)


def test_an_import_is_made_again_from_its_file_while_that_says_the_same(full):
    store = Store(full / "s")
    before, told = fragments(store), []
    run = next(o.run_id for o in store.snapshot().operators if o.kind == "import")
    victim = next(f.path for f in store.snapshot().of("annotations") if f.run_id == run)
    (store.root / victim).unlink()
    text = (full / "labels.jsonl").read_text()
    (full / "labels.jsonl").write_text(text.replace("cup", "mug"))
    assert [d.path for d in repair(store, store.verify(), workers=0, on_message=told.append)] == [victim]
    assert "labels.jsonl has changed since it was imported" in told[0]
    (full / "labels.jsonl").write_text(text)
    assert repair(store, store.verify(), workers=0) == [] and fragments(store) == before


def test_what_an_import_superseded_is_made_again_for_its_own_pictures_whatever_the_file_says_by_then(tmp_path):
    folder_of(tmp_path, 6)
    path = tmp_path / "labels.jsonl"
    for pictures, side in ((range(6), 9), (range(1, 3), 12), ((0, 1, 5), 14)):  # all of one folder
        rows = [{"id": str(n), "image": {"id": str(n), "uri": f"pictures/p{n:04}.png"},
                 "regions": [{"id": "r", "box": [1, 1, side, 9], "label": "cup"}]} for n in pictures]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        store = import_labels(path, tmp_path / "s", unit=2, workers=0)
    assert sorted(r.box[2] for s in store.samples() for r in s.regions) == [9, 9, 12, 14, 14, 14]
    runs = [store.run(o.run_id) for o in store.snapshot().operators if o.kind == "recomputed"]
    before, of_one = fragments(store), next(iter(runs[0]["replaced"].values()))
    assert of_one["run"] in {o.run_id for o in store.snapshot().operators} and len(of_one["images"]) == 2
    path.unlink()
    for victim in store.paths("decisions"):
        os.unlink(victim)
    assert repair(store, store.verify(), workers=0) == [] and fragments(store) == before


def test_compacted_files_are_made_again_from_the_small_ones(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 7), tmp_path / "s", own_names(tmp_path), unit=3, workers=0)
    store.compact(rows=10)
    path = store.paths("annotations")[0]
    good = open(path, "rb").read()
    open(path, "wb").write(good[:-10])
    assert [d.cause for d in store.verify()] == ["changed"]
    assert repair(store, store.verify(), workers=0) == []
    assert open(path, "rb").read() == good


def test_the_command_names_what_is_damaged_and_what_it_cannot_make_again(tmp_path, capsys):
    store = full_store(tmp_path)
    assert main(["verify", str(store.root)]) == 0
    replaced = {o.run_id for o in store.snapshot().operators if o.replaced}
    victim = next(f.path for f in store.snapshot().of("annotations") if f.run_id in replaced)  # version 1 is no more
    (store.root / victim).unlink()
    assert main(["verify", str(store.root)]) == 1
    assert f"{victim}: missing" in capsys.readouterr().out
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    said = capsys.readouterr()
    assert "is no longer what it was" in said.err and "1 damaged or missing" in said.out
    shutil.rmtree(tmp_path / "more")
    image = store.snapshot().of("images")[-1].path
    (Store(store.root).root / image).unlink()
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    assert "is gone; put it back" in capsys.readouterr().err


@pytest.mark.parametrize("deed", DEEDS)
def test_a_damaged_record_of_a_run_is_refused_and_made_again_from_its_starts(tmp_path, deed):
    folder, names = folder_of(tmp_path, 3), own_names(tmp_path)
    store = florence2.annotate(folder, tmp_path / "s", names, workers=0)
    path = f"runs/{next(o.run_id for o in store.snapshot().operators if o.name == 'mine')}.json"
    good = (store.root / path).read_bytes()
    spoil, cause = DEEDS[deed]
    spoil(store.root / path)
    assert [(d.path, d.cause) for d in store.verify()] == [(path, cause)]
    with pytest.raises(ValueError, match="damaged|missing") as refusal:
        florence2.annotate(folder, tmp_path / "s", [*names, own_names(tmp_path, 2)[0]][1:], workers=0)
    assert path in str(refusal.value) and "verify" in str(refusal.value)
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 0
    assert (store.root / path).read_bytes() == good and store.verify() == []


@pytest.mark.parametrize("deed", DEEDS)
def test_a_start_that_is_lost_is_named_and_given_up(tmp_path, capsys, deed):
    folder, names = folder_of(tmp_path, 3), own_names(tmp_path)
    store = florence2.annotate(folder, tmp_path / "s", names, workers=0)
    run = next(o.run_id for o in store.snapshot().operators if o.name == "mine")
    spoil, cause = DEEDS[deed]
    spoil(store.root / "runs" / run / "000001.json")
    assert [(d.path, d.cause) for d in store.verify()] == [(f"runs/{run}/000001.json", cause)]
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    assert "given up; run its command again" in capsys.readouterr().err
    assert store.verify() == [] and store.run(run)["starts"] == []
    florence2.annotate(folder, tmp_path / "s", names, workers=0)
    assert store.verify() == [] and store.run(run)["starts"][-1]["with"] == names[0]


@pytest.mark.parametrize("deed", DEEDS)
def test_a_damaged_newest_snapshot_is_refused_and_the_one_before_is_used_on_request(tmp_path, capsys, deed):
    folder, names = folder_of(tmp_path, 3), own_names(tmp_path)
    store = florence2.annotate(folder, tmp_path / "s", names[:1], workers=0)
    first = list(store.samples())
    store = florence2.annotate(folder, tmp_path / "s", names, workers=0)
    before, second = fragments(store), list(store.samples())
    spoil, cause = DEEDS[deed]
    spoil(store.root / "snapshots" / "000002.json")
    assert [(d.path, d.cause) for d in store.verify()] == [("snapshots/000002.json", cause)]
    for command in (["annotate", str(store.root), "--with", names[0]], ["filter", str(store.root)]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert "000002.json" in said and "florence2 undo" in said and said.count("\n") == 1
    assert main(["verify", str(store.root), "--repair", "--workers", "0"]) == 1
    assert main(["undo", str(store.root), "--json"]) == 0
    assert '"snapshot": 3, "holds": 1' in capsys.readouterr().out
    assert list(store.samples()) == first and store.verify() == []
    florence2.annotate(folder, tmp_path / "s", names, workers=0)
    assert list(store.samples()) == second and fragments(store) == before and store.verify() == []


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_link_of_the_chain_is_made_again_to_the_byte(tmp_path, deed, number):
    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", own_names(tmp_path), workers=0)
    florence2.filter(store, WITHOUT_PARSER)
    store.undo()
    path = store.root / "chain" / f"{number:06d}.json"
    good = path.read_bytes()
    spoil, cause = DEEDS[deed]
    spoil(path)
    if (deed, number) == ("deleted", 3):  # the last one is not missed: the next command seals again
        assert store.verify() == []
        return
    assert (f"chain/{number:06d}.json", cause) in [(d.path, d.cause) for d in store.verify()]
    assert repair(store, store.verify(), workers=0) == []
    assert path.read_bytes() == good and store.verify() == []


@pytest.mark.parametrize(
    "lost",
    [
        ("chain/000002.json", "chain/000003.json"),
        ("chain/000001.json", "chain/000003.json"),
        ("chain/000002.json", "runs/{run}/000001.json"),
        ("chain/000001.json", "runs/{run}.json"),
        ("chain/000003.json", "snapshots/000002.json"),
        ("chain/000001.json", "chain/000002.json", "runs/{run}/000001.json"),
    ],
)
def test_what_is_lost_with_a_link_of_the_chain_is_named_and_the_other_links_stay(tmp_path, capsys, lost):
    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", own_names(tmp_path), workers=0)
    florence2.filter(store, WITHOUT_PARSER)
    store.undo()
    florence2.filter(store, WITHOUT_PARSER)
    run = next(o.run_id for o in store.snapshot().operators if o.name == "mine")
    lost = [path.format(run=run) for path in lost]
    before = {p.relative_to(store.root).as_posix(): p.read_bytes() for p in store.root.rglob("*.json")}
    for path in lost:
        flip(store.root / path)
    assert {d.path for d in store.verify()} == set(lost)
    said = []
    left = {d.path for d in repair(store, store.verify(), workers=0, on_message=said.append)}
    after = {p.relative_to(store.root).as_posix(): p.read_bytes() for p in store.root.rglob("*.json")}
    changed = {path for path in before if before[path] != after.get(path)}
    assert changed <= left <= set(lost) and len(said) == len(left)
    assert [path for path in lost if path.startswith("snapshots/")] == [d.path for d in store.verify()]
    if store.verify() == []:
        florence2.filter(store, WITHOUT_PARSER)
        before = store.snapshot().number
        (store.root / "snapshots" / f"{before:06d}.json").unlink()
        assert [d.path for d in store.verify()] == [f"snapshots/{before:06d}.json"]  # the chain holds on


@pytest.mark.parametrize(
    "deeds",
    [
        {"chain/000001.json": "flip", "snapshots/000001.json": None, "snapshots/000004.json": None},
        {"chain/000003.json": None, "chain/000005.json": "flip", "snapshots/000003.json": None},
        {"chain/000003.json": "flip", "snapshots/000003.json": "snapshots/000002.json", "snapshots/000002.json": None},
        {"chain/{filter}.json": "flip", "runs/{filtered}/000001.json": None},  # a snapshot names the run
        {"chain/000001.json": None, "runs/{read}/000001.json": None},  # there is a second start
        {"chain/000001.json": "flip", "runs/{read}.json": "runs/{read}/000001.json"},
        {"chain/000001.json": "chain/000004.json", "chain/{last}.json": "flip"},  # of the last link no other one speaks
        {"chain/000001.json": "flip", "chain/{last}.json": "flip", "runs/{read}/000002.json": "flip"},
        {"chain/{last}.json": "flip", "runs/{filtered}/000001.json": "flip"},
        {"chain/000004.json": "chain/000003.json", "chain/000005.json": "chain/000004.json"},
        {"chain/{last}.json": "chain/000003.json", "chain/000005.json": None},
        {"chain/{last}.json": "chain/000005.json", "chain/000005.json": "flip"},
    ],
)
def test_damage_to_links_and_what_they_name_is_named_and_no_other_file_changes(full, tmp_path, deeds):
    store = Store(shutil.copytree(full / "s", tmp_path / "s"))
    before = {p.relative_to(store.root).as_posix(): p.read_bytes() for p in store.root.rglob("*.json")}
    links = {path: json.loads(data)["files"] for path, data in before.items() if path.startswith("chain/")}
    filtered = next(o.run_id for o in store.snapshot().operators if o.kind == "merge")
    names = {"last": f"{len(links):06d}", "filtered": filtered}
    names["filter"] = next(path[6:12] for path, files in links.items() if f"runs/{filtered}.json" in files)
    names["read"] = next(p.split("/")[1] for p in before if p.startswith("runs/") and p.endswith("/000002.json")
                         and p.replace("2.json", "1.json") in links["chain/000001.json"])  # fmt: skip
    deeds = {path.format(**names): by and by.format(**names) for path, by in deeds.items()}
    for path, by in deeds.items():
        if by is None:
            (store.root / path).unlink()
        elif by == "flip":
            flip(store.root / path)
        else:
            (store.root / path).write_bytes(before[by])
    assert {d.path for d in store.verify()} == set(deeds)
    said = []
    left = {d.path for d in repair(store, store.verify(), workers=0, on_message=said.append)}
    after = {path: (store.root / path).read_bytes() for path in before if (store.root / path).exists()}
    assert {path for path in before if before[path] != after.get(path)} <= left <= set(deeds) and len(said) == len(left)
    assert {d.path for d in store.verify()} == {path for path in left if path.startswith("snapshots/")}
