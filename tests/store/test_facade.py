"""The store as the engine sees it: units, annotations of some runs, verdicts up to a point, and nothing else opened."""

import florence2
from florence2.store import pending
from florence2.store.snapshots import Operator
from tests.engine.doubles import Boxes, Floor, NoTexts, folder_of


def store_of(tmp_path):
    (folder_of(tmp_path, 5) / "broken.png").write_bytes(b"\x89PNG")
    store = florence2.annotate(
        tmp_path / "pictures", tmp_path / "s", [Boxes("one"), Boxes("two", shift=3.0)], workers=0, unit=4
    )
    florence2.filter(store, [Floor(0.5), NoTexts()])
    return store


def run_of(store, name):
    return next(o.run_id for o in store.snapshot().operators if o.name == name)


def test_units_annotations_and_decisions_together_are_the_samples(tmp_path):
    store = store_of(tmp_path)
    runs = {o.run_id for o in store.snapshot().operators}
    found = []
    for unit in store.units():
        bare = store.annotations(unit, runs)
        assert [s.image.id for s in bare] == [s.image.id for s in unit.samples] and not any(s.decisions for s in bare)
        found += store.decisions(unit, bare, runs, before=(10, 0))
    assert found == list(store.samples(view="all"))
    assert [len(unit.samples) + len(unit.others) for unit in store.units()] == [4, 2]
    assert store.count_images() == 5 and store.count_images(selector=lambda s: s.image.uri.endswith("1.png")) == 1


def test_only_what_is_asked_for_is_given_and_opened(tmp_path):
    store = store_of(tmp_path)
    for fragment in store.snapshot().fragments:  # what is not asked for may be gone
        if fragment.run_id in (run_of(store, "two"), run_of(store, "no_texts")):
            (store.root / fragment.path).unlink()
    (unit, *_) = store.units()
    samples = store.annotations(unit, {run_of(store, "one")})
    assert {r.source.name for s in samples for r in s.regions} == {"one"}
    judged = store.decisions(unit, samples, {run_of(store, "floor")}, before=(0, 2))
    assert {d.rule for s in judged for d in s.decisions} <= {"floor"}
    assert not any(s.decisions for s in store.decisions(unit, samples, {run_of(store, "floor")}, before=(0, 1)))
    assert store.newest_seq(0, store.snapshot(1)) == -1
    sent = unit.reading({run_of(store, "one")})
    assert store.annotations(sent, {run_of(store, "one")}) == samples and len(sent.group.fragments["annotations"]) == 1


def test_records_written_through_it_are_read_as_they_were(tmp_path):
    store = store_of(tmp_path)
    base, (unit, *_) = store.snapshot(), store.units()
    operator = Operator("r" * 16, "floor/strict", "2=b", "f" * 32, 3, "filter")
    (sample,) = (s for s in store.samples() if s.image.id == unit.samples[0].image.id)
    verdict = florence2.records.Decision(
        sample.texts[0].id if sample.texts else "x", "kept", "floor", "again", round=3, seq=7
    )
    put = store.put_all([pending.decisions_of(operator, "u1", unit.uid, [(sample.image.id, verdict)])])
    assert put[0].path == "decisions/round-3/floor-strict@2-b/unit-u1.parquet"  # no slash, no equals sign
    store.save(base, put, [operator])
    assert store.newest_seq(3) == 7 and store.snapshot().number == base.number + 1
