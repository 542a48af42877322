"""A change of one operator reaches what read it, in any command, and nothing else; what cannot follow is named."""

import json

import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from tests.engine.doubles import Floor, folder_of, fragments

OWN = """
from florence2 import Grounding, Region, Text

class Finder:
    name, version, produces = "finder", "{version}", ["region_text/object"]
    def annotate(self, samples, images):
        return [[Region(box=(1, 2, 20, 20 + {version}), label="thing", score=0.8)] for i in images]

class Teller:  # a caption of what was found
    name, version, produces, requires = "teller", "1", ["text/brief"], ["region_text/object"]
    def annotate(self, samples, images):
        return [[Text(text="A thing of %g." % (s.regions[0].box[3] if s.regions else 0))] for s in samples]

class Pointer:  # phrases of captions in boxes
    name, version, produces, requires = "pointer", "1", ["text_phrase_region"], ["text/brief", "region_text/object"]
    def annotate(self, samples, images):
        return [[Grounding(text_id=t.id, spans=((2, 7),), region_ids=tuple(r.id for r in s.regions))
                 for t in s.texts] for s in samples]

class Masker:
    name, version, produces, requires = "masker", "1", ["region_text/mask"], ["region_text/object"]
    def annotate(self, samples, images):
        return [[Region(box=r.box, label=r.label, polygons=((1, 1, 9, 1, 9, 9),), refines=r.id)
                 for r in s.regions if not r.refines] for s in samples]

class Aside:
    name, version, produces = "aside", "1", ["text/detailed"]
    def annotate(self, samples, images):
        return [[Text(text="Nothing of it.", detail="detailed")] for s in samples]

class Rival:
    name, version, produces = "rival", "1", ["region_text/object"]
    def annotate(self, samples, images):
        return [[Region(box=(1, 2, 20, 24), label="thing", score=0.6)] for i in images]
"""
ALL = ("Finder", "Teller", "Pointer", "Masker", "Aside")


@pytest.fixture
def own(tmp_path):
    """Writes own.py for a version of Finder, and names classes of it."""
    path = tmp_path / "own.py"

    def names(*classes, version=1):
        path.write_text(OWN.replace("{version}", str(version)))
        return [f"{path}:{name}" for name in classes]

    return names


def annotate(tmp_path, names, **more):
    out = tmp_path / "s"
    told = []
    source = (tmp_path / "pictures") if not out.exists() else out
    store = florence2.annotate(
        source, None if out.exists() else out, names, workers=0, unit=2, on_message=told.append, **more
    )
    return store, told


def standing(store):
    """What stands, without ids: the same as if all had been computed from scratch."""
    said = set()
    for sample in store.samples():
        boxes = {r.id: r.box for r in sample.regions}
        for r in sample.regions:
            said.add((sample.id, r.source.name, r.box, boxes.get(r.refines)))
        for g in sample.groundings:
            text = next(t.text for t in sample.texts if t.id == g.text_id)
            said.add((sample.id, g.source.name, g.phrase, text, tuple(boxes[i] for i in g.region_ids)))
        said |= {(sample.id, t.source.name, t.text) for t in sample.texts}
    counts = store.counts()["annotations"]
    assert len([i for s in store.samples() for i in (*s.regions, *s.texts, *s.groundings)]) == counts["kept"]
    return said


def test_those_that_read_it_follow_in_their_order(tmp_path, own):
    folder_of(tmp_path, 5)
    store, _ = annotate(tmp_path, own(*ALL))
    first, before = standing(store), fragments(store)
    store, told = annotate(tmp_path, own("Finder", version=2))
    assert told == ["run again, as what they read has changed: teller, pointer, masker"]
    new = {path.split("/")[2].split("@")[0] for path in set(fragments(store)) - set(before)}
    assert new == {"finder", "teller", "pointer", "masker", "recomputed"}
    changed = standing(store)
    scratch = florence2.annotate(tmp_path / "pictures", tmp_path / "scratch", own(*ALL, version=2), workers=0, unit=2)
    assert changed == standing(scratch) != first
    assert annotate(tmp_path, own("Finder", version=2))[1] == [] and standing(store) == changed
    store, _ = annotate(tmp_path, own("Finder"))  # and back: found again, not computed
    assert standing(store) == first
    assert {o.name for o in store.snapshot().operators if not o.replaced} >= {"finder", "teller", "pointer", "masker"}


def test_one_that_is_asked_for_waits_for_its_own_input(tmp_path, own):
    folder_of(tmp_path, 3)
    annotate(tmp_path, own(*ALL))
    store, told = annotate(tmp_path, own("Finder", "Pointer", version=2))  # teller lies between them
    assert told == ["run again, as what they read has changed: teller, masker"]
    scratch = florence2.annotate(tmp_path / "pictures", tmp_path / "scratch", own(*ALL, version=2), workers=0, unit=2)
    assert standing(store) == standing(scratch)


def test_who_is_read_does_not_read_his_reader(tmp_path, own):
    folder_of(tmp_path, 3)
    (tmp_path / "both.py").write_text(
        own("Finder")
        and OWN.replace("{version}", "1").replace(
            'requires = "teller", "1", ["text/brief"], ["region_text/object"]',
            'requires = "teller", "1", ["text/brief"], ["*"]',
        )
    )
    names = [f"{tmp_path / 'both.py'}:{name}" for name in ("Finder", "Teller", "Pointer")]
    store, _ = annotate(tmp_path, names)
    before = fragments(store)
    store, _ = annotate(tmp_path, names[1:2])  # teller reads all before it; pointer, which reads teller, is not
    assert fragments(store) == before


def test_what_cannot_be_run_again_is_named_and_only_what_leans_on_it_falls(tmp_path, own):
    folder_of(tmp_path, 4)
    store, _ = annotate(tmp_path, own(*ALL))
    store, told = annotate(tmp_path, own("Finder", version=2), dependents=False)
    assert len(told) == 3 and told[0].startswith("teller: what it read of finder has changed, and it was not run again")
    assert all(line.endswith(name) for line, name in zip(told, own("Teller", "Pointer", "Masker", version=2)))
    kinds = {row[1] for row in standing(store)}
    assert kinds == {"finder", "teller", "aside"}  # texts stand; phrases and masks without their boxes do not
    reasons = {d["reason"] for d in store.table("decisions").to_pylist()}
    assert reasons == {"recomputed", "orphan"}
    store, told = annotate(tmp_path, own("Aside", version=2))  # the next command without the switch makes up for it
    assert told == ["run again, as what they read has changed: teller, pointer, masker"]
    scratch = florence2.annotate(tmp_path / "pictures", tmp_path / "scratch", own(*ALL, version=2), workers=0, unit=2)
    assert standing(store) == standing(scratch)


def test_only_the_pictures_that_changed_and_were_seen_are_run_again(tmp_path, own):
    one, two = folder_of(tmp_path / "a", 2), folder_of(tmp_path / "b", 3, start=10)
    florence2.annotate(one, tmp_path / "s", own("Finder", "Teller"), workers=0, unit=2)
    florence2.annotate(two, tmp_path / "s", own("Finder"), workers=0, unit=2)
    store = florence2.annotate(two, tmp_path / "s", own("Finder", version=2), workers=0, unit=2)
    assert not any(s.texts for s in store.samples() if "/b/" in s.image.uri)  # teller never saw these
    before = {path for path in fragments(store) if "teller" in path}
    store = florence2.annotate(one, tmp_path / "s", own("Finder", version=2), workers=0, unit=2)
    assert len({path for path in fragments(store) if "teller" in path} - before) == 1
    assert {t.text for s in store.samples() for t in s.texts} == {"A thing of 22."}


@pytest.mark.parametrize("merged", [False, True])
def test_what_was_merged_and_judged_is_as_if_it_had_been_so_from_the_start(tmp_path, own, merged):
    folder_of(tmp_path, 4)
    rules, merging = [Floor(0.5)], MergeConfig() if merged else None
    store, _ = annotate(tmp_path, own("Finder", "Rival"))
    florence2.filter(store, rules, merging=merging)
    first = {(s.id, r.box, r.score) for s in store.samples() for r in s.regions}
    store, _ = annotate(tmp_path, own("Finder", version=9))
    if merged:  # the fused rows went with their parent, the other parent stands again
        assert {r.source.name for s in store.samples() for r in s.regions} == {"finder", "rival"}
    for version in (9, 1):
        store, _ = annotate(tmp_path, own("Finder", version=version))
        florence2.filter(store, rules, merging=merging)
        scratch = florence2.annotate(
            tmp_path / "pictures", tmp_path / f"scratch{version}", own("Finder", "Rival", version=version), workers=0
        )
        florence2.filter(scratch, rules, merging=merging)
        found, expected = (
            sorted((s.id, r.source.name, r.box, round(r.score, 6)) for s in which.samples() for r in s.regions)
            for which in (store, scratch)
        )
        assert found == expected
    assert {(s.id, r.box, r.score) for s in store.samples() for r in s.regions} == first


def test_verdicts_come_back_with_what_they_were_on(tmp_path, own):
    folder_of(tmp_path, 3)
    store, _ = annotate(tmp_path, own("Finder"))
    florence2.filter(store, [Floor(2.0)])
    annotate(tmp_path, own("Finder", version=2))
    store, _ = annotate(tmp_path, own("Finder"))
    assert store.counts()["annotations"] == {"total": 6, "kept": 0, "rejected": 3, "superseded": 3}


def test_an_import_names_what_read_the_labels_it_changes(tmp_path, own):
    folder_of(tmp_path, 2)

    def labels(side):
        rows = [
            {"id": f"{n}", "image": {"id": f"{n}", "uri": f"pictures/p{n:04}.png"},
             "regions": [{"id": "r", "box": [1, 1, side, side], "label": "cup"}]}
            for n in range(2)
        ]  # fmt: skip
        (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
        told = []
        return import_labels(tmp_path / "labels.jsonl", tmp_path / "s", workers=0, on_message=told.append), told

    labels(10)
    annotate(tmp_path, own("Teller"))
    store, told = labels(12)
    (line,) = told
    assert line.startswith("teller: what it read of jsonl has changed") and line.endswith("own.py:Teller")
    assert {t.text for s in store.samples() for t in s.texts} == {"A thing of 10."}
    store, _ = annotate(tmp_path, own("Teller"))
    assert {t.text for s in store.samples() for t in s.texts} == {"A thing of 12."}


def test_two_of_one_name_are_refused_and_a_card_gives_another(tmp_path, own):
    folder_of(tmp_path, 1)
    with pytest.raises(ValueError, match="two specialists are called 'finder'"):
        annotate(tmp_path, own("Finder", "Finder"))
    (tmp_path / "card.yaml").write_text("specialist: composer\nname: second composer\n")
    store, _ = annotate(tmp_path, ["composer", str(tmp_path / "card.yaml")])
    assert {o.name for o in store.snapshot().operators} >= {"composer", "second composer"}
