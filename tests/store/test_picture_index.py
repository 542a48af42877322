"""A store by columns and by single pictures: the same as its samples say, in every layout, and after every addition."""

import dataclasses
import itertools

import numpy as np
import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.correcting import AnnotationChange, Correction, correct
from florence2.formats import jsonl
from florence2.records import Coverage, ImageRef, Region, Sample, Source, Text
from florence2.store import Store, Wanted
from tests.engine.doubles import folder_of

LABELS = ("cat", "dog", "cow")
SOURCES = (Source("specialist", "yolox", "2"), Source("specialist", "owl", "1"))


def thing(n, label, score, source):
    x = 1.0 + 7 * n
    return Region(f"r{n}", box=(x, 2.0, x + 6.0, 20.0), label=label, label_space="things", score=score, source=source)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Twelve pictures of several labels, sources, scores and splits in three units, judged."""
    tmp = tmp_path_factory.mktemp("index")
    folder, samples = folder_of(tmp, 12), []
    for n, file in enumerate(sorted(folder.glob("*.png"))):
        regions = [thing(k, LABELS[(n + k) % 3], (n * 5 + k * 3) % 10 / 10, SOURCES[k % 2]) for k in range(n % 4)]
        coverage = {"things": (Coverage("exhaustive", ("cat",)),)} if n == 7 else {}
        split = ("train", "val", "")[n % 3]
        texts = (Text("t", f"picture {n}", source=SOURCES[0]),)
        samples.append(Sample(f"s{n}", ImageRef(file.name, str(file)), texts, tuple(regions), (), (), split, coverage))
    jsonl.write(samples, tmp / "in")
    return florence2.filter(import_labels(tmp / "in", tmp / "s", workers=0, unit=4), workers=0).root


@pytest.fixture(params=["fragments", "compacted", "corrected", "compacted, then corrected"])
def store(path, tmp_path, request):
    """The store in a layout of its own."""
    import shutil

    store = Store(shutil.copytree(path, tmp_path / "s"))
    if "compacted" in request.param:
        store.compact()
    if "corrected" in request.param:
        index = store.picture_index()
        for name in index.ids[3:9:2]:
            first = index.state(name).sample.regions[:1]
            changes = [AnnotationChange("changed", one.id, label="hen") for one in first]
            changes.append(AnnotationChange("added", label="cat", box=(1.0, 1.0, 9.0, 9.0)))
            outcomes, index = correct(store, [Correction("Ada", name, tuple(changes), complete=("cat",))], index)
            assert not isinstance(outcomes[0], Exception)
    return store


def truth(store):
    """(place, picture, item, its last verdict) of every annotation, by way of the records."""
    for place, sample in enumerate(store.samples(view="all")):
        last = {d.item_id: d for d in sample.decisions}
        for item in sample.items():
            yield place, sample, item, last.get(item.id)


def fits(item, verdict, wanted):
    label = item.label if isinstance(item, Region) and item.kind == "object" else ""
    facts = {
        "label": label,
        "source": item.source.name,
        "status": verdict.status if verdict else "kept",
        "reason": (verdict.reason or verdict.rule) if verdict else "",
        "round": str(item.source.round),
    }
    if any(getattr(wanted, name) and value not in getattr(wanted, name) for name, value in facts.items()):
        return False
    bounds = wanted.least is not None, wanted.most is not None
    if any(bounds) and item.score is None:
        return False
    return not (bounds[0] and item.score < wanted.least) and not (bounds[1] and item.score > wanted.most)


CASES = [
    Wanted(),
    Wanted(label=("cat",)),
    Wanted(label=("cat", "hen")),
    Wanted(label=("no such label",)),
    Wanted(status=("rejected",)),
    Wanted(status=("superseded",)),
    Wanted(source=("owl",), status=("kept",)),
    Wanted(reason=("low_score",)),
    Wanted(reason=("changed",)),
    Wanted(round=("0",)),
    Wanted(least=0.5),
    Wanted(label=("dog",), least=0.2, most=0.7),  # one annotation fits all of it
    Wanted(split=("val",)),
    Wanted(split=("val", "train"), label=("cow",)),
    Wanted(picture=("ok",)),
    Wanted(picture=("failed truncated",)),
]


@pytest.mark.parametrize("wanted", CASES, ids=str)
def test_what_is_found_is_what_the_records_say(store, wanted):
    samples = list(store.samples(view="all"))
    expected = {n for n, s in enumerate(samples) if not wanted.split or s.split in wanted.split}
    if wanted.of_annotations:
        expected &= {place for place, _, item, verdict in truth(store) if fits(item, verdict, wanted)}
    if wanted.picture:
        expected &= set(range(len(samples))) if "ok" in wanted.picture else set()
    index = store.picture_index()
    assert index.find(wanted).tolist() == sorted(expected)
    assert index.ids == [sample.image.id for sample in samples]


def test_facets_count_what_each_value_would_leave(store):
    index = store.picture_index()
    wanted = Wanted(label=("cat",), split=("train", "val"))
    facets = index.facets(wanted)
    for name in ("label", "source", "status", "round"):
        for value, count in facets[name].items():
            narrowed = dataclasses.replace(wanted, **{name: (value,)})
            rows = [p for p, s, item, v in truth(store) if s.split in wanted.split and fits(item, v, narrowed)]
            assert count == len(rows), (name, value)
    for value, count in facets["split"].items():
        assert count == len(index.find(dataclasses.replace(wanted, split=(value,)))), value
    for value, count in facets["review"].items():
        assert count == len(index.find(dataclasses.replace(wanted, review=(value,)))), value


def test_review_says_who_has_looked(store):
    index = store.picture_index()
    for place, sample in enumerate(store.samples(view="all")):
        whole = any(one.state == "exhaustive" for states in sample.coverage.values() for one in states)
        touched = any(d.rule == "human" for d in sample.decisions)
        expected = "complete" if whole else "touched" if touched else "open"
        assert index.text("review", index.review[place]) == expected


def test_a_picture_by_itself_is_the_same_as_among_all(store):
    index = store.picture_index()
    for sample in store.samples(view="all"):
        state = index.state(sample.image.id)
        assert state.sample == sample
        assert len(state.runs) == len(sample.decisions) and all(state.runs)
        assert {**state.coverage_before(len(state.stated))} == {**sample.coverage}
    assert index.state("nothing") is None


def test_following_is_the_same_as_reading_anew(path, tmp_path):
    import shutil

    store = Store(shutil.copytree(path, tmp_path / "s"))
    followed = store.picture_index()
    for n, name in enumerate(followed.ids[:5]):
        regions = followed.state(name).sample.regions
        changes = [AnnotationChange("rejected" if n % 2 else "kept", one.id) for one in regions]
        changes.append(AnnotationChange("added", label=f"new {n}", box=(0.0, 0.0, 5.0, 5.0)))
        outcomes, followed = correct(store, [Correction(f"person {n}", name, tuple(changes))], followed)
        assert not isinstance(outcomes[0], Exception)
    florence2.filter(store, {"region_score": {"min": 0.3}}, workers=0)
    followed = followed.follow(store.snapshot())
    assert_equal(followed, store.picture_index())
    store.undo(2)  # less than there was: read anew
    assert_equal(followed.follow(store.snapshot()), store.picture_index())


def assert_equal(one, other):
    assert one.ids == other.ids and one.snapshot == other.snapshot
    assert one.ann_ids.to_pylist() == other.ann_ids.to_pylist()
    for name in ("label", "source", "round", "status", "reason", "space"):
        texts = [[each.text(name, code) for code in each.columns[name]] for each in (one, other)]
        assert texts[0] == texts[1], name
    for name in ("place", "last", "score"):
        np.testing.assert_array_equal(one.columns[name], other.columns[name])
    np.testing.assert_array_equal(one.review, other.review)
    for place in range(len(one)):
        assert one.rows_of(place).tolist() == other.rows_of(place).tolist()
        assert one.state(one.ids[place]).sample == other.state(one.ids[place]).sample


def test_an_index_that_was_followed_is_left_as_it_was(path, tmp_path):
    import shutil

    store = Store(shutil.copytree(path, tmp_path / "s"))
    before = store.picture_index()
    facets = before.facets(Wanted())
    ann = before.state(before.ids[3]).sample.regions[0].id
    correct(store, [Correction("Ada", before.ids[3], (AnnotationChange("rejected", ann),))], before)
    assert before.facets(Wanted()) == facets


def test_an_annotation_names_its_picture(store):
    index = store.picture_index()
    for place, _, item, _ in itertools.islice(truth(store), 20):
        assert index.picture_of(item.id) == place
    assert index.picture_of("nothing") == index.picture_of("\ud800") == -1


def test_the_reader_holds_no_more_than_it_may(store):
    index = store.picture_index()
    index.reader.keep_bytes = 1
    for name in index.ids:
        assert index.state(name).sample.image.id == name
    assert len(index.reader._kept) == 1
