"""What failed in passing is asked again by the next run of the same command; what failed for good is not."""

from pathlib import Path

import pytest

import florence2
from florence2.cli import main
from florence2.cli.annotate import describe_run
from florence2.engine.execution import annotation_phase
from florence2.engine.planning.repair import repair
from florence2.records import Failure
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, folder_of, fragments
from tests.engine.test_current_annotations import Masks, Texts


class Moody(Boxes):
    """Fails on some pictures while a file says so."""

    def __init__(self, mood, reason="", batch_size=4):
        super().__init__("moody", batch_size=batch_size)
        self.mood, self.reason = mood, reason

    def one(self, sample, image):
        if self.mood.exists() and Path(sample.image.uri).name in self.mood.read_text().split():
            if self.reason:
                return Failure(reason=self.reason, detail="today")
            raise RuntimeError("not today")
        return super().one(sample, image)


def run(folder, out, mood, **more):
    reports = {}
    store = florence2.annotate(
        folder, out, [Moody(mood, more.pop("reason", ""))], **{"workers": 0, "unit": 3, "reports": reports, **more}
    )
    return store, reports["moody"]


def test_failures_in_passing_are_asked_again_until_they_answer(tmp_path):
    folder, mood = folder_of(tmp_path, 7), tmp_path / "mood"
    mood.write_text("p0001.png p0005.png p0006.png")
    store, report = run(folder, tmp_path / "s", mood)
    assert (report.asked, report.failures) == (7, {"error": 3})
    before = fragments(store)
    mood.write_text("p0005.png")
    store, report = run(folder, tmp_path / "s", mood)
    assert (report.asked, report.failures, report.failed) == (3, {"error": 1}, 1)
    assert before.items() <= fragments(store).items()  # fragments of their own
    mood.unlink()
    store, report = run(folder, tmp_path / "s", mood)
    assert (report.asked, report.failures, report.failed) == (1, {}, 0)
    whole = fragments(store)
    store, report = run(folder, tmp_path / "s", mood)
    assert report.asked == 0 and fragments(store) == whole
    clean, _ = run(folder, tmp_path / "clean", mood)
    ids = [sorted(r.id for s in each.samples() for r in s.regions) for each in (store, clean)]
    assert ids[0] == ids[1] and len(ids[0]) == 7  # the same answers as of one who never failed
    assert store.counts()["failures"] == 0 and store.reasons()["failures"] == {}  # an answer counts


def test_the_last_try_counts(tmp_path):
    folder, mood = folder_of(tmp_path, 4), tmp_path / "mood"
    mood.write_text("p0001.png p0002.png")
    for _ in range(3):
        store, report = run(folder, tmp_path / "s", mood)
    assert report.asked == 2 and store.counts()["failures"] == 2 and store.reasons()["failures"] == {"error": 2}
    rows = store.table("failures").to_pylist()
    assert len(rows) == 6  # a row a try, in fragments of their own
    assert len(set(store.paths("failures"))) == 3


def test_what_failed_in_three_runs_is_left_alone_until_it_is_asked_for(tmp_path, capsys):
    folder, mood = folder_of(tmp_path, 4), tmp_path / "mood"
    mood.write_text("p0001.png p0002.png")
    asked = [run(folder, tmp_path / "s", mood)[1].asked for _ in range(5)]
    assert asked == [4, 2, 2, 0, 0]
    store, report = run(folder, tmp_path / "s", mood, retry_failed=True)
    assert (report.asked, report.failed, report.quarantined) == (2, 2, 0)
    store, report = run(folder, tmp_path / "s", mood)  # a further attempt does not reopen it
    assert (report.asked, report.failed, report.quarantined) == (0, 2, 2)
    assert describe_run({"moody": report}).endswith("nothing left to ask; 2 left alone that failed in three runs "
                                                    "(--retry-failed asks them)")  # fmt: skip
    mood.unlink()
    store, report = run(folder, tmp_path / "s", mood, retry_failed=True)
    assert report.asked == 2 and store.counts()["failures"] == 0


class Down(Boxes):
    """A service that is out of order from one picture on, while a file says so."""

    def __init__(self, mood, first):
        super().__init__("down")
        self.mood, self.first = mood, first

    def one(self, sample, image):
        if self.mood.exists() and Path(sample.image.uri).name >= self.first:
            raise ConnectionError("no route")
        return super().one(sample, image)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_specialist_that_breaks_is_given_up_and_what_does_not_read_it_is_run(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(annotation_phase, "BROKEN_AFTER", 12)
    folder, mood, said, reports = folder_of(tmp_path, 60), tmp_path / "mood", [], {}
    reader = Boxes("reader", requires={"region_text/object"}, shift=1.0)
    with_ = [Down(mood, "p0006.png"), reader, Boxes("other", shift=2.0)]
    clean = florence2.annotate(folder, tmp_path / "clean", with_, workers=0, unit=4)
    mood.write_text("down")
    by = {"workers": workers, "unit": 4, "on_message": said.append, "reports": reports}
    store = florence2.annotate(folder, tmp_path / "s", with_, **by)
    assert "on 12 pictures in a row (12 error)" in reports["down"].broken or workers
    assert reports["down"].asked < 60 and reports["reader"].broken == "reads down, which was given up"
    assert sum("given up" in line for line in said) == 2
    assert {o.name for o in store.snapshot().operators} == {"images", "other"} and store.counts()["failures"] == 0
    mood.unlink()
    for _ in range(2):  # the first two failures were of a unit that was half done
        florence2.annotate(folder, tmp_path / "s", with_, **by)
    assert store.counts()["failures"] == 0 and store.counts()["annotations"]["kept"] == 60 * 9
    boxes = [[[sorted(r.box for r in s.regions)] for s in each.samples()] for each in (store, clean)]
    assert boxes[0] == boxes[1] and store.verify() == []


@pytest.mark.parametrize(
    "reason, again", [("refused", False), ("invalid", False), ("timeout", True), ("missing", True)]
)
def test_only_what_another_try_may_not_meet_is_asked_again(tmp_path, reason, again):
    folder, mood = folder_of(tmp_path, 3), tmp_path / "mood"
    mood.write_text("p0001.png")
    run(folder, tmp_path / "s", mood, reason=reason)
    _, report = run(folder, tmp_path / "s", mood, reason=reason)
    assert report.asked == again


def test_a_retry_is_the_same_in_processes(tmp_path):
    folder, mood = folder_of(tmp_path, 7), tmp_path / "mood"
    for name, workers in (("a", 0), ("b", 2)):
        mood.write_text("p0001.png p0005.png")
        run(folder, tmp_path / name, mood, workers=workers)
        mood.write_text("p0005.png")
        run(folder, tmp_path / name, mood, workers=workers)
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert fragments(a) == fragments(b) and a.snapshot().to_bytes() == b.snapshot().to_bytes()


def test_a_damaged_retry_is_made_again(tmp_path):
    folder, mood = folder_of(tmp_path, 4), tmp_path / "mood"
    mood.write_text("p0001.png")
    run(folder, tmp_path / "s", mood)
    before = set(fragments(Store(tmp_path / "s")))
    mood.unlink()
    store, _ = run(folder, tmp_path / "s", mood)
    whole = fragments(store)
    (new,) = set(whole) - before
    (store.root / new).write_bytes(b"torn")
    run(folder, tmp_path / "s", mood)
    assert fragments(store) == whole and store.verify() == []


OWN = """
from florence2.records import Region
class Own:
    name, version = "own", "1"
    def setup(self, device): pass
    def annotate(self, samples, images):
        {body}
"""


def command(tmp_path, body, capsys, workers="0"):
    own = tmp_path / "own.py"
    own.write_text(OWN.format(body=body))
    code = main(["annotate", str(tmp_path / "pictures"), "--out", str(tmp_path / "s"), "--with", f"{own}:Own",
                 "--workers", workers])  # fmt: skip
    return code, *capsys.readouterr()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_specialist_that_gives_nothing_is_said_at_once_and_ends_in_1(tmp_path, capsys, workers):
    folder_of(tmp_path, 3)
    code, out, err = command(tmp_path, "raise RuntimeError('no licence')", capsys, workers)
    assert code == 1
    assert err.count("RuntimeError: no licence") == 1 and "p0000.png" in err  # the first, and only that
    assert "own: asked about 3, answered 0, failed on 3 (3 error)" in out
    assert "own failed on every picture and gave the store nothing" in err


def test_a_specialist_that_gave_something_before_ends_in_0(tmp_path, capsys):
    folder_of(tmp_path, 2)
    body = "return [[Region(box=(1., 1., 5., 5.), label='x')] for s in samples]"
    assert command(tmp_path, body, capsys)[0] == 0
    folder_of(tmp_path, 1, start=2)
    # the same source file must stay: its bytes are the fingerprint; what fails is the picture
    (tmp_path / "pictures" / "p0002.png").unlink()
    code, out, _ = command(tmp_path, body, capsys)
    assert code == 0 and "own: nothing left to ask" in out


def test_compaction_changes_no_count_of_failures_nor_does_a_later_attempt_lose_one(tmp_path):
    folder, mood = folder_of(tmp_path, 7), tmp_path / "mood"
    for moods in ("p0001.png p0005.png p0006.png", "p0005.png p0006.png"):
        mood.write_text(moods)
        store, _ = run(folder, tmp_path / "s", mood)
    for moods in (None, "p0006.png", None, ""):  # compacted, asked again, compacted anew, answered
        before = store.counts()["failures"], store.reasons()["failures"], store.current_failures()
        if moods is None:
            tables = [sorted(map(str, store.table(name).to_pylist())) for name in ("failures", "annotations")]
            store.compact(rows=3)
            assert (store.counts()["failures"], store.reasons()["failures"], store.current_failures()) == before
            assert tables == [sorted(map(str, store.table(n).to_pylist())) for n in ("failures", "annotations")]
        else:
            mood.write_text(moods)
            store, report = run(folder, tmp_path / "s", mood, retry_failed=True)
            assert (report.asked, store.counts()["failures"]) == (len(before[2]), len(moods.split()))
    clean, _ = run(folder, tmp_path / "clean", mood)
    assert store.counts()["annotations"] == clean.counts()["annotations"]
    for path in (*store.paths("failures", 3), *store.paths("failures", 5)):
        Path(path).unlink()
    assert repair(store, store.verify(), workers=0) == [] and store.counts(5)["failures"] == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_a_retry_brings_is_judged_by_the_same_rules(tmp_path, interrupted):
    folder, mood = folder_of(tmp_path, 6), tmp_path / "mood"
    mood.write_text("p0001.png")
    store, _ = run(folder, tmp_path / "s", mood)
    left = 4

    class Stops(Floor):
        def judge(self, sample):
            nonlocal left
            left -= 1
            if interrupted and left < 0:  # the picture that failed lies in the unit that is judged
                raise KeyboardInterrupt
            return super().judge(sample)

    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            florence2.filter(store, [Stops(0.99)])
    else:
        florence2.filter(store, [Floor(0.99)])
    mood.unlink()
    run(folder, tmp_path / "s", mood)
    florence2.filter(store, [Floor(0.99)])
    assert not [region for sample in store.samples() for region in sample.regions]
    before = store.snapshot()
    florence2.filter(store, [Floor(0.99)])
    store.compact()
    florence2.filter(store, [Floor(0.99)])
    assert store.snapshot().number == before.number + 1  # nothing new to judge


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("reader", [Masks, Texts])
def test_who_reads_others_is_asked_about_what_a_retry_brings(tmp_path, reader, judged):
    folder, mood = folder_of(tmp_path, 6), tmp_path / "mood"
    mood.write_text("p0001.png p0004.png")

    def annotate():
        makers = [Moody(mood), reader()]
        return florence2.annotate(folder, tmp_path / "s", makers, workers=0, unit=3), makers[1]

    def read(store):
        """What the reader says of each picture."""
        items = [(s, [i for i in s.items() if i.source.name == made.spec.name]) for s in store.samples()]
        return {Path(s.image.uri).name: [getattr(i, "text", "mask") for i in own] for s, own in items}

    store, made = annotate()
    if judged:
        florence2.filter(store, [Floor(0.0)])
    mood.write_text("p0004.png")
    store, made = annotate()
    clean, _ = florence2.annotate(folder, tmp_path / "clean", [Boxes("moody"), reader()], workers=0, unit=3), None
    expected = read(clean)
    assert len(expected) == 6 and all(expected.values())
    still = {"p0004.png": [] if reader is Masks else ["0 boxes"]}
    assert read(store) == {**expected, **still}
    mood.unlink()
    store, made = annotate()
    assert read(store) == expected
    whole = store.snapshot()
    store, made = annotate()  # and nobody is asked once more
    assert store.snapshot() == whole
    for path in sorted((store.root / f"annotations/round-0/{made.spec.name}@1").glob("*.parquet")):
        data = path.read_bytes()
        path.write_bytes(data[:-9])
        assert repair(store, store.verify(), [Moody(mood), reader()], workers=0) == []
        assert path.read_bytes() == data


def test_a_reader_that_came_after_the_retry_has_read_it(tmp_path):
    folder, mood = folder_of(tmp_path, 4), tmp_path / "mood"
    mood.write_text("p0001.png")
    run(folder, tmp_path / "s", mood)
    mood.unlink()
    store, _ = run(folder, tmp_path / "s", mood)
    florence2.annotate(store.root, with_=[Masks()], workers=0)
    number = store.snapshot().number
    again = Masks()
    florence2.annotate(store.root, with_=[again], workers=0)
    assert again.seen == [] and store.snapshot().number == number
