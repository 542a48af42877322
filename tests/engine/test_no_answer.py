"""An object store that is not reached for a while says nothing of pictures and fragments, which stay as they are."""

import contextlib
import io
import tarfile

import botocore.exceptions as aws
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import florence2
from florence2 import object_store
from florence2.engine.execution import annotation_phase
from florence2.engine.export import export_labels
from florence2.engine.status import status
from florence2.monitoring import run_journal
from florence2.object_store import NoAnswer, Objects
from florence2.pixels import BadImage
from florence2.records import ImageRef
from florence2.sources.files import read_bytes
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, Misbehaving, folder_of, fragments, picture

AWAY = aws.EndpointConnectionError(endpoint_url="http://nowhere")


def refused(code, status=400):
    return aws.ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "x"
    )


class Shaky:
    """A client that fails `times` times at requests for keys that hold `part`, after `first` that it answers."""

    def __init__(self, client, error, part, first, times):
        self.client, self.error, self.part, self.first, self.times = client, error, part, first, times

    def __getattr__(self, name):
        call = getattr(self.client, name)
        if name == "meta" or not callable(call):
            return call

        def asked(*args, **more):
            if self.part in str(more.get("Key", more.get("Prefix", ""))):
                self.first -= 1
                if self.first < 0 and self.times > 0:
                    self.times -= 1
                    raise self.error
            return call(*args, **more)

        return asked


@pytest.fixture
def away(monkeypatch):
    """Makes requests fail for a while: which, after how many, how many of them."""

    monkeypatch.setattr(object_store, "PATIENCE_S", 0.0)

    @contextlib.contextmanager
    def shaky(part="", first=0, times=10**9, error=AWAY):
        client = Objects._client
        with monkeypatch.context() as patch:
            made = {}

            def once(self):
                return made.setdefault("client", Shaky(client(self), error, part, first, times))

            patch.setattr(Objects, "_client", once)
            yield

    return shaky


@pytest.fixture
def pictures(bucket, tmp_path):
    """Six pictures in a folder, and the same in the bucket."""
    folder, objects = folder_of(tmp_path, 6), Objects(f"{bucket}/pictures")
    for path in folder.iterdir():
        objects.put(path.name, path.read_bytes())
    return objects


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AWAY, "no_answer"),
        (aws.ReadTimeoutError(endpoint_url="x"), "no_answer"),
        (aws.NoCredentialsError(), "no_answer"),
        *(
            (refused(code), "no_answer")
            for code in ("SlowDown", "ExpiredToken", "RequestTimeTooSkewed", "InternalError")
        ),
        (refused("NoSuchKey"), "missing"),
        (refused("AccessDenied"), "unreadable"),
        (refused("InvalidObjectState"), "unreadable"),
    ],
    ids=str,
)
def test_what_is_not_of_the_object_is_told_from_what_is(pictures, away, error, reason):
    with away(error=error), pytest.raises(BadImage) as refusal:
        read_bytes(ImageRef("a", f"{pictures.url}/p0000.png"))
    assert refusal.value.reason == reason and pictures.url in str(refusal.value)


class Broken(io.BytesIO):
    def read(self, *size):
        raise aws.ResponseStreamingError(error="reset by peer")


def test_an_answer_that_breaks_off_is_asked_for_again(pictures, monkeypatch):
    waits = []
    monkeypatch.setattr(object_store.time, "sleep", waits.append)
    whole, asked = pictures.get("p0000.png"), []
    client, times = pictures._client(), [3]

    class Breaking(Shaky):
        def __getattr__(self, name):
            def get(**more):
                asked.append(more)
                found = self.client.get_object(**more)
                return {**found, "Body": Broken()} if len(asked) <= times[0] else found

            return get if name == "get_object" else getattr(self.client, name)

    monkeypatch.setattr(Objects, "_client", lambda self: Breaking(client, None, "", 0, 0))
    assert pictures.get("p0000.png", 3, 20) == whole[3:23] and len(asked) == 4 and len({str(a) for a in asked}) == 1
    assert sorted(waits) == waits and len(waits) == 3
    monkeypatch.setattr(object_store, "PATIENCE_S", 0.0)
    times[0] = 10**9
    with pytest.raises(NoAnswer, match="reset by peer"):
        pictures.get("p0000.png")


@pytest.mark.parametrize("error", [AWAY, refused("SlowDown", 503), refused("InternalError", 500)], ids=str)
def test_a_store_that_has_answered_is_waited_for_and_another_is_not(pictures, away, monkeypatch, error):
    waits = []
    monkeypatch.setattr(object_store.time, "sleep", waits.append)
    with away(times=4, error=error):
        monkeypatch.setattr(object_store, "PATIENCE_S", 60.0)
        assert len(list(pictures.list())) == 6 and len(waits) == 4
    with away(times=4, error=error), pytest.raises(NoAnswer):
        monkeypatch.setattr(object_store, "_answered", set())
        pictures.get("p0000.png")
    assert len(waits) == 4


def test_keys_that_are_refused_are_not_tried_again(pictures, away, monkeypatch):
    monkeypatch.setattr(object_store.time, "sleep", lambda seconds: pytest.fail("waited"))
    with away(times=1, error=refused("ExpiredToken")), pytest.raises(NoAnswer, match="ExpiredToken"):
        monkeypatch.setattr(object_store, "PATIENCE_S", 60.0)
        pictures.get("p0000.png")


def test_a_listing_of_several_pages_is_whole(bucket, monkeypatch):
    objects, client = Objects(f"{bucket}/many"), Objects._client
    for n in range(7):
        objects.put(f"{n}", b"x")

    class Short:
        def __init__(self, real):
            self.list_objects_v2 = lambda **more: real.list_objects_v2(MaxKeys=3, **more)

    monkeypatch.setattr(Objects, "_client", lambda self: Short(client(self)))
    assert [facts.path for facts in objects.list()] == [f"{n}" for n in range(7)]


def test_a_name_that_is_being_written_for_ever_is_given_up(pictures, away, monkeypatch):
    waits = []
    monkeypatch.setattr(object_store.time, "sleep", waits.append)
    conflict = refused("ConditionalRequestConflict", 409)
    with away(times=5, error=conflict):
        assert pictures.put_if_absent("new", b"x") and len(waits) == 5
    with away(error=conflict), pytest.raises(OSError, match="is being written"):
        pictures.put_if_absent("other", b"x")
    assert max(waits) <= 1.0


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_that_were_not_reached_are_asked_again_and_nothing_is_lost(pictures, away, tmp_path, workers):
    clean = florence2.annotate(pictures.url, tmp_path / "clean", [Boxes()], workers=0, unit=2)
    calls = {"workers": 0, "unit": 2}
    store = florence2.annotate(pictures.url, tmp_path / "s", [], **calls)
    with away("p000", first=1, times=2):
        florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], **calls)
    assert store.reasons()["failures"] == {"no_answer": 2}
    (boxes,) = status(store).specialists
    assert (boxes.done, boxes.failed) == (4, 2)
    florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], workers=workers, unit=2)
    assert store.counts()["annotations"] == clean.counts()["annotations"] and store.counts()["failures"] == 0
    assert {(r["image_id"], r["ann_id"]) for r in store.table("annotations").to_pylist()} == {
        (r["image_id"], r["ann_id"]) for r in clean.table("annotations").to_pylist()
    }


def test_where_no_picture_is_reached_the_specialist_is_given_up_and_the_same_command_goes_on(
    pictures, away, tmp_path, monkeypatch
):
    monkeypatch.setattr(annotation_phase, "BROKEN_AFTER", 4)
    clean = florence2.annotate(pictures.url, tmp_path / "clean", [Boxes()], workers=0, unit=2)
    store, reports = florence2.annotate(pictures.url, tmp_path / "s", [], workers=0, unit=2), {}
    with away("p000", error=refused("ExpiredToken")):
        florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], workers=0, reports=reports)
    assert "4 pictures in a row (4 no_answer)" in reports["boxes"].broken and store.counts()["failures"] == 0
    florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], workers=0)
    assert fragments(store) == fragments(clean)


def test_pictures_that_were_not_reached_when_they_were_to_come_in_are_no_failures(pictures, away, tmp_path):
    clean = florence2.annotate(pictures.url, tmp_path / "clean", [Boxes()], workers=0, unit=2)
    with away("p0003"), pytest.raises(OSError, match="gives no answer.*p0003.png"):
        florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], workers=0, unit=2)
    store = florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], workers=0, unit=2)
    assert fragments(store) == fragments(clean) and store.snapshot().to_bytes() == clean.snapshot().to_bytes()


def test_pictures_that_were_not_reached_are_not_taken_for_changed_ones(pictures, away, tmp_path):
    store = florence2.annotate(pictures.url, tmp_path / "s", [Boxes()], workers=0, unit=2)
    store.keep_picture_times({})  # so that each is read to be known again
    with away("p0002.png"), pytest.raises(OSError, match="p0002.png"):
        florence2.annotate(pictures.url, store.root, [Boxes()], workers=0)
    assert store.snapshots() == [1]
    florence2.annotate(pictures.url, store.root, [Boxes()], workers=0)
    assert store.snapshots() == [1] and store.counts()["images"]["ok"] == 6


def test_archives_and_tables_that_were_not_reached_are_not_taken_for_torn_ones(bucket, away, tmp_path):
    paths = [picture(tmp_path / "p", f"q{n}.png", n) for n in range(4)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in paths[:2]:
            tar.add(path, path.name)
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths[2:]]
    pq.write_table(pa.table({"image": cells}), tmp_path / "b.parquet")
    place = Objects(f"{bucket}/packed")
    for name in "a.tar", "b.parquet":
        place.put(name, (tmp_path / name).read_bytes())
    with away("a.tar"), pytest.raises(OSError, match="a.tar"):
        florence2.annotate(place.url, tmp_path / "s", [Boxes()], workers=0)
    store = florence2.annotate(place.url, tmp_path / "s", [], workers=0)
    assert store.counts()["images"]["ok"] == 4 and not store.reasons()["images"]
    refs = [row.image for row in store.images() if row.image.uri.endswith("b.parquet")]
    with away("b.parquet"), pytest.raises(BadImage) as refusal:
        read_bytes(refs[0])
    assert refusal.value.reason == "no_answer"
    with away("packed"), pytest.raises(NoAnswer):
        export_labels(store, "coco", tmp_path / "coco")


def test_a_table_that_its_lister_does_not_reach_is_not_taken_for_a_torn_one(bucket, monkeypatch, tmp_path):
    Objects(f"{bucket}/packed").put("b.parquet", b"PAR1")
    listing = Objects.list
    elsewhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}

    def listed(self, *args, **more):  # this process reaches the store, the child that it starts then does not
        found = list(listing(self, *args, **more))
        for name, value in elsewhere.items():
            monkeypatch.setenv(name, value)
        return iter(found)

    monkeypatch.setattr(Objects, "list", listed)
    with pytest.raises(OSError, match="gives no answer.*b.parquet"):
        florence2.annotate(f"{bucket}/packed", tmp_path / "s", [Boxes()], workers=0)


def test_what_was_not_reached_of_a_store_is_not_taken_for_damaged(bucket, pictures, away):
    place = f"{bucket}/s"
    store = florence2.annotate(pictures.url, place, [Boxes()], workers=0, unit=2)
    florence2.filter(store, [Floor(0.5)], workers=0)
    held = {path: store.storage.read(path) for path in store.storage.list("") if not path.startswith("tmp/")}
    for part in ("s/annotations/", "s/images/", "s/snapshots/", "s/chain/", "s/runs/"):
        for command in (
            lambda: florence2.annotate(pictures.url, place, [Boxes(), Boxes("more")], workers=0),
            lambda: Store(place).undo(1),
            lambda: Store(place).verify(),
            lambda: status(place),
        ):
            with away(part, first=2), contextlib.suppress(NoAnswer):
                command()
        now = {path: store.storage.read(path) for path in store.storage.list("") if not path.startswith("tmp/")}
        assert {path: data for path, data in now.items() if path in held} == held, part
        assert not [path for path in store.storage.list("tmp") if "damaged" in path], part
    assert Store(place).verify() == []


def test_how_a_run_stands_is_written_again_once_the_store_answers(bucket, pictures, away, monkeypatch, tmp_path):
    monkeypatch.setattr(run_journal, "EVERY_S", 0.01)
    said = []
    journal = run_journal.RunJournal(on_message=said.append)
    with away("tmp/commands", first=3, times=3):
        florence2.annotate(pictures.url, f"{bucket}/s", [Boxes()], workers=0, journal=journal)
    found = status(f"{bucket}/s").run
    assert found.outcome == "ended" and [phase.name for phase in found.state.phases] == ["inspecting", "boxes"]
    assert len(said) == 1 and "tries to write it again" in said[0]


def test_a_picture_that_cannot_be_read_for_now_is_asked_again(tmp_path, monkeypatch):
    """On a disk, too: it could be read when it was taken in."""
    folder = folder_of(tmp_path, 3)
    store = florence2.annotate(folder, tmp_path / "s", [], workers=0)
    real = open

    def shut(path, *args, **more):
        if str(path).endswith("p0001.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("florence2.pixels.open", shut, raising=False)
        florence2.annotate(folder, tmp_path / "s", [Misbehaving("raises", [])], workers=0)
    assert store.reasons()["failures"] == {"unreadable": 1}
    florence2.annotate(folder, tmp_path / "s", [Misbehaving("raises", [])], workers=0)
    assert store.counts()["failures"] == 0 and store.counts()["annotations"]["kept"] == 9
