"""The routes of a store, asked as a client would: what they give, what they refuse, what two people at once do."""

import concurrent.futures
import dataclasses
import json
import os
import shutil
import time

import httpx
import pytest

from florence2.engine.commands import import_labels
from florence2.formats import jsonl
from florence2.pixels import BadImage, encode, load
from florence2.records import ImageRef, Region, Sample, Source, Text
from florence2.serving.store_browser import StoreBrowser
from florence2.store import COMMIT_TRIES, Store
from tests.engine.doubles import folder_of
from tests.serving.running import RunningServer

MODEL = Source("specialist", "yolox", "2")
COUNT = 8


def make_store(tmp):
    """Eight pictures with a cat and a dog each in a store."""
    folder, samples = folder_of(tmp, COUNT), []
    for n, path in enumerate(sorted(folder.glob("*.png"))):
        regions = tuple(
            Region(label, box=(x, 2.0, x + 8.0, 20.0), label=label, label_space="things", score=score, source=MODEL)
            for label, x, score in (("cat", 1.0, 0.9), ("dog", 11.0, 0.1 * n))
        )
        texts = (Text("t", "<img src=x onerror=alert(1)>", source=MODEL),)
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), texts, regions))
    jsonl.write(samples, tmp / "in")
    return import_labels(tmp / "in", tmp / "store", workers=0)


class Client:
    """A server over a store of its own, and what is asked of it."""

    def __init__(self, tmp, *arguments, env=None, make=make_store):
        self.tmp = tmp
        self.store = make(tmp)
        self.server = RunningServer("--store", str(self.store.root), *arguments, env=env)
        self.http, self.headers = None, {}
        if env:
            self.headers = {"Authorization": f"Bearer {env['FLORENCE2_API_KEY']}"}

    def __enter__(self):
        self.server.__enter__().wait_ready()
        self.http = httpx.Client(base_url=self.server.url, timeout=60, headers=self.headers)
        for _ in range(300):
            if self.get().status_code not in (401, 503):
                return self
            time.sleep(0.1)
        raise AssertionError("the store is not read")

    def __exit__(self, *error):
        self.http.close()
        self.server.__exit__(*error)

    def get(self, path="", **query):
        return self.http.get(f"/v1/store{path}", params=query)

    def ids(self, **query):
        return [one["id"] for one in self.get("/pictures", order="store", **query).json()["pictures"]]

    def picture(self, image_id):
        return self.get(f"/pictures/{image_id}").json()

    def correct(self, image_id="", person="Ada", **more):
        return self.http.post("/v1/store/corrections", json={"person": person, "image_id": image_id, **more})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For what changes nothing."""
    with Client(tmp_path_factory.mktemp("shared")) as client:
        yield client


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """For what changes pictures, each test one of its own."""
    with Client(tmp_path_factory.mktemp("changed")) as client:
        yield client


def by_label(picture):
    return {a["label"]: a for a in picture["annotations"] if a["label"]}


def test_the_store_says_what_it_is(shared):
    body = shared.get().json()
    assert (body["name"], body["pictures"], body["annotations"], body["model"]) == ("store", COUNT, 3 * COUNT, False)
    assert body["labels"] == {"cat": COUNT, "dog": COUNT}


def test_pictures_are_filtered_and_paged(shared):
    ids = shared.ids()
    assert len(ids) == COUNT == len(set(ids))
    first = shared.get("/pictures", limit=3, order="store").json()
    second = shared.get("/pictures", limit=3, offset=3, order="store", listing=first["listing"]).json()
    assert [p["id"] for p in first["pictures"] + second["pictures"]] == ids[:6] and second["total"] == COUNT
    assert shared.ids(label="dog", min_score=0.45, max_score=0.65) == ids[5:7]
    assert shared.ids(label="cat", max_score=0.5) == []
    assert shared.get("/facets", label="dog", min_score=0.45).json()["status"] == {"kept": 3}


def test_the_place_of_a_picture_is_that_of_the_listing(shared):
    for query in ({}, {"order": "store"}, {"order": "store", "label": "dog", "min_score": 0.45}):
        body = shared.get("/pictures", **query).json()
        for place, one in enumerate(body["pictures"]):
            found = shared.get(f"/pictures/{one['id']}/place", listing=body["listing"], **query).json()
            assert found == {"listing": body["listing"], "total": body["total"], "place": place}
    first = shared.ids()[0]
    assert shared.get(f"/pictures/{first}/place", label="dog", min_score=0.45).json()["place"] is None
    assert shared.get("/pictures/nothing/place").status_code == 404


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10_000}, "limit"),
        ({"offset": -1}, "offset"),
        ({"order": "best"}, "order"),
        ({"min_score": "nan"}, "min_score"),
        ({"min_score": 2}, "min_score"),
    ],
)
def test_a_wrong_query_is_422_and_named(shared, query, field):
    answer = shared.get("/pictures", **query)
    assert answer.status_code == 422 and answer.json()["error"]["field"] == field


def test_the_queue_is_the_order_of_review(shared):
    from florence2.engine.curation.review_order import review_order

    for _ in range(200):
        if shared.get().json()["queue_ready"]:
            break
        time.sleep(0.1)
    found = [one["id"] for one in shared.get("/pictures").json()["pictures"]]
    assert found == [one.image_id for one in review_order(shared.store)]


def test_a_picture_shows_all_that_was_said_of_it(shared):
    image_id = shared.ids()[2]
    body = shared.picture(image_id)
    (sample,) = (s for s in shared.store.samples(view="all") if s.image.id == image_id)
    assert [a["ann_id"] for a in body["annotations"]] == [item.id for item in sample.items()]
    dog = by_label(body)["dog"]
    assert dog["box"] == [11.0, 2.0, 19.0, 20.0] and dog["source"]["name"] == "yolox" and dog["status"] == "kept"
    assert "/" not in body["name"] and str(shared.tmp) not in json.dumps(body)


def test_pictures_are_sent_as_they_lie_and_small(shared):
    image_id = shared.ids()[0]
    row = next(row for row in shared.store.images() if row.id == image_id)
    whole = shared.get(f"/pictures/{image_id}/image")
    assert whole.content == open(row.image.uri, "rb").read() and whole.headers["content-type"] == "image/png"
    assert (
        whole.headers["x-content-type-options"] == "nosniff" and "sandbox" in whole.headers["content-security-policy"]
    )
    for path in (f"/v1/store/pictures/{image_id}/image", f"/v1/store/pictures/{image_id}", "/store", "/v1/store"):
        head = shared.http.head(path)
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == str(len(shared.http.get(path).content))
    small = shared.get(f"/pictures/{image_id}/thumbnail", side=160)
    assert small.headers["content-type"] == "image/jpeg" and load(small.content).shape == (30, 40, 3)


@pytest.mark.parametrize(
    "image_id",
    [
        "nothing",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "%2e%2e",
        "%00",
        "p0000.png",
        "file:%2f%2f%2fetc%2fpasswd",
        "a" * 5000,
    ],
)
@pytest.mark.parametrize("rest", ["", "/image", "/thumbnail"])
def test_only_pictures_of_the_store_are_known(shared, image_id, rest):
    answer = httpx.get(f"{shared.server.url}/v1/store/pictures/{image_id}{rest}")
    assert answer.status_code == 404 and "root:" not in answer.text and str(shared.tmp) not in answer.text


def test_what_lies_where_a_picture_was_is_not_sent(tmp_path):
    """A file that is no picture, another picture, a pipe, nothing: none is read out, and others are as before."""
    with Client(tmp_path) as client:
        rows = {row.id: row.image.uri for row in client.store.images()}
        ids = list(rows)
        os.remove(rows[ids[0]])
        os.symlink("/etc/passwd", rows[ids[0]])
        other = encode(load(rows[ids[7]])[::-1])
        with open(rows[ids[1]], "wb") as file:
            file.write(other)
        os.remove(rows[ids[2]])
        os.mkfifo(rows[ids[2]])
        os.remove(rows[ids[3]])
        for place, reason in ((0, "changed"), (1, "changed"), (2, "unreadable"), (3, "missing")):
            for rest in ("image", "thumbnail"):
                answer = client.get(f"/pictures/{ids[place]}/{rest}")
                assert answer.status_code in (404, 415) and answer.json()["error"]["type"] == f"image_{reason}"
                assert str(tmp_path) not in answer.text and "root:" not in answer.text
            assert client.get(f"/pictures/{ids[place]}").status_code == 200
        assert client.get(f"/pictures/{ids[4]}/image").status_code == 200


def test_a_picture_without_a_recorded_hash_is_not_sent(tmp_path):
    """A record that a stranger wrote could name any picture of this machine."""
    store = make_store(tmp_path)
    shown, index = StoreBrowser(str(store.root), 10**6), store.picture_index()
    state = index.state(index.ids[0])
    assert shown.picture(state).data == shown.model_input(state) and shown.thumbnail(state, 160)
    for sha256 in ("", state.row.image.sha256[:-1]):
        image = dataclasses.replace(state.row.image, sha256=sha256)
        strange = dataclasses.replace(state, row=dataclasses.replace(state.row, image=image))
        for read in (shown.picture, shown.model_input, lambda of: shown.thumbnail(of, 160)):
            with pytest.raises(BadImage, match="not the one that was taken in"):
                read(strange)


def test_a_key_and_an_origin_are_asked_for_here_too(tmp_path):
    with Client(tmp_path, env={"FLORENCE2_API_KEY": "secret"}) as client:
        image_id, url = client.ids()[0], client.server.url + "/v1/store"
        for path in ("", "/pictures", "/facets", f"/pictures/{image_id}", f"/pictures/{image_id}/image"):
            assert httpx.get(url + path).status_code == 401, path
        body = {"person": "Eve", "image_id": image_id, "complete": ["cat"]}
        assert httpx.post(url + "/corrections", json=body).status_code == 401
        elsewhere = {**client.headers, "Origin": "http://elsewhere.example"}
        assert httpx.post(url + "/corrections", json=body, headers=elsewhere).status_code == 403
        assert Store(client.store.root).snapshots() == [1]
        assert client.correct(image_id, complete=["cat"]).status_code == 200


def test_a_correction_stands_in_the_store_when_it_is_answered(changed):
    image_id = changed.ids()[0]
    dog = by_label(changed.picture(image_id))["dog"]
    answer = changed.correct(changes=[{"ann_id": dog["ann_id"], "verdict": "rejected"}])
    assert answer.status_code == 200
    (decision,) = changed.store.history(dog["ann_id"])["decisions"]
    assert (decision["status"], decision["rule"]) == ("rejected", "human")
    assert changed.store.run(decision["run_id"])["person"] == "Ada"
    shown = by_label(answer.json()["picture"])["dog"]
    assert shown["status"] == "rejected" and shown["history"][-1]["person"] == "Ada"
    assert shown["seen"] == answer.json()["name"] == shown["history"][-1]["name"]
    assert changed.ids(status="rejected", label="dog") == [image_id]


def test_a_new_box_is_moved_relabelled_and_undone(changed):
    image_id = changed.ids()[1]
    before = changed.picture(image_id)
    box = {"verdict": "added", "label": "hen", "box": [1, 1, 9, 9]}
    added = changed.correct(image_id, changes=[box]).json()
    (ann_id,) = added["ann_ids"]
    again = [{"verdict": "changed", "ann_id": ann_id, "label": "cock", "box": [2, 2, 9, 9], "seen": added["name"]}]
    moved = changed.correct(image_id, "Bob", changes=again).json()
    cock = by_label(moved["picture"])["cock"]
    assert (cock["box"], cock["source"]["name"], cock["ann_id"]) == ([2, 2, 9, 9], "Bob", moved["ann_ids"][0])
    assert changed.correct(image_id, undoes=added["name"]).status_code == 409
    for name in (moved["name"], added["name"]):
        assert changed.correct(image_id, undoes=name).status_code == 200

    def kept(picture):
        return [(a["ann_id"], a["box"]) for a in picture["annotations"] if a["status"] == "kept"]

    assert kept(changed.picture(image_id)) == kept(before)


def test_completeness(changed):
    image_id = changed.ids()[2]
    body = changed.correct(image_id, complete=["cat", "dog"]).json()["picture"]
    assert (body["complete"], body["review"]) == (["cat", "dog"], "complete")
    assert changed.ids(review="complete") == [image_id]
    body = changed.correct(image_id, incomplete=["cat", "dog"]).json()["picture"]
    assert (body["complete"], changed.ids(review="complete")) == ([], [])


def test_who_saw_another_state_is_answered_409(changed):
    image_id = changed.ids()[3]
    cat = by_label(changed.picture(image_id))["cat"]
    change = {"ann_id": cat["ann_id"], "seen": cat["seen"], "verdict": "rejected"}
    assert changed.correct(image_id, "Ada", changes=[change]).status_code == 200
    answer = changed.correct(image_id, "Bob", changes=[{**change, "verdict": "kept"}])
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "changes.0.ann_id")
    assert by_label(changed.picture(image_id))["cat"]["status"] == "rejected"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"person": ""}, 422, "person"),
        ({"person": " "}, 422, "person"),
        ({"changes": [{"verdict": "praised", "ann_id": "x"}]}, 422, "changes.0.verdict"),
        ({"changes": [{"verdict": "kept", "ann_id": "nothing"}]}, 404, "changes.0.ann_id"),
        ({"changes": [{"verdict": "kept", "ann_id": "x", "path": "/etc"}]}, 422, "changes.0"),
        ({"changes": [{"verdict": "added", "label": "x", "box": [1, 2, 3]}]}, 422, "changes.0.box"),
        ({"changes": [{"verdict": "added", "label": "x", "box": [1, 2, 1e999, 4]}]}, 422, "changes.0.box"),
        ({"changes": [{"verdict": "added", "label": "x", "box": [5, 5, 1, 1]}]}, 422, "changes.0.box"),
        ({"changes": [{"verdict": "added", "label": "x", "polygons": [[1, 2]]}]}, 422, "changes.0"),
        ({"changes": [{"verdict": "added", "label": "\ud800", "box": [1, 2, 3, 4]}]}, 422, "changes.0.label"),
        ({"image_id": "", "changes": [{"verdict": "kept", "ann_id": "\ud800"}]}, 422, "changes.0.ann_id"),
        ({"image_id": "\ud800", "complete": ["x"]}, 422, "image_id"),
        ({"complete": ["\ud800"]}, 422, "complete.0"),
        ({"person": "\ud800"}, 422, "person"),
        ({}, 422, "changes"),
        ({"image_id": "nothing", "complete": ["x"]}, 404, "image_id"),
        ({"undoes": "9.9"}, 404, "undoes"),
        ({"undoes": "../../x"}, 404, "undoes"),
    ],
)
def test_a_wrong_correction_is_refused_and_named(changed, body, status, field):
    number = changed.get().json()["snapshot"]
    body = {"person": "Ada", "image_id": changed.ids()[4], **body}
    answer = changed.http.post(
        "/v1/store/corrections", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text
    assert changed.get().json()["snapshot"] == number


def test_two_people_at_once_lose_nothing(changed):
    """And a command beside them, as from another terminal."""
    from florence2.engine.curation.correcting import AnnotationChange, Correction, correct

    image_id, each = changed.ids()[5], 10

    def ask(person, n):
        box = {"verdict": "added", "label": f"{person} {n}", "box": [1, 1, 3 + n, 9]}
        return changed.correct(image_id, person, changes=[box]).status_code

    def command(n):
        change = AnnotationChange("added", label=f"other {n}", box=(1.0, 1.0, 9.0, 9.0))
        correct(Store(changed.store.root), [Correction("other", image_id, (change,))])
        return 200

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, person, n) for n in range(each) for person in ("Ada", "Bob")]
        asked += [pool.submit(command, n) for n in range(3)]
        assert {future.result() for future in asked} == {200}
    expected = {f"{person} {n}" for n in range(each) for person in ("Ada", "Bob")} | {f"other {n}" for n in range(3)}
    (sample,) = (s for s in Store(changed.store.root).samples() if s.image.id == image_id)
    assert expected <= {r.label for r in sample.regions}
    time.sleep(0.6)  # what others write is noticed by and by
    assert expected <= set(by_label(changed.picture(image_id)))
    assert changed.store.verify() == []


def test_who_reads_is_not_held_up_by_corrections_that_wait_for_a_command(changed):
    """A command that was overtaken too often has corrections wait; pictures are shown meanwhile."""
    image_id = changed.ids()[5]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with Store(changed.store.root).turn_after(COMMIT_TRIES):
            changes = [[{"verdict": "added", "label": f"late {n}", "box": [1, 1, 3 + n, 9]}] for n in range(6)]
            asked = [pool.submit(changed.correct, image_id, changes=change) for change in changes]
            time.sleep(0.5)
            for _ in range(5):
                began = time.monotonic()
                assert changed.picture(image_id)["id"] == image_id and time.monotonic() - began < 2
            assert not any(future.done() for future in asked)
        assert {future.result(30).status_code for future in asked} == {200}
    assert {f"late {n}" for n in range(6)} <= set(by_label(changed.picture(image_id)))


def test_what_other_commands_add_is_shown(changed):
    import florence2
    from tests.engine.doubles import Floor

    florence2.filter(Store(changed.store.root), [Floor(0.65)], workers=0)
    time.sleep(0.6)
    assert changed.ids(status="rejected", reason="below_floor", label="dog") or changed.get("/facets").json()["reason"]
    newest = Store(changed.store.root).snapshot().number
    assert changed.get().json()["snapshot"] == newest


def test_the_routes_are_described(shared):
    paths = httpx.get(shared.server.url + "/openapi.json").json()["paths"]
    mine = {path: set(methods) for path, methods in paths.items() if path.startswith("/v1/store")}
    assert mine == {
        "/v1/store": {"get"},
        "/v1/store/pictures": {"get"},
        "/v1/store/facets": {"get"},
        "/v1/store/pictures/{image_id}": {"get"},
        "/v1/store/pictures/{image_id}/place": {"get"},
        "/v1/store/pictures/{image_id}/image": {"get"},
        "/v1/store/pictures/{image_id}/thumbnail": {"get"},
        "/v1/store/pictures/{image_id}/assist": {"post"},
        "/v1/store/corrections": {"post"},
    }


def test_without_a_model_drawing_is_not_assisted(shared):
    answer = shared.http.post(f"/v1/store/pictures/{shared.ids()[0]}/assist", json={"point": [5, 5]})
    assert answer.status_code == 404 and "start the server with a MODEL" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"'])
def test_a_body_that_is_no_json_object_is_named(shared, content):
    answer = shared.http.post("/v1/store/corrections", content=content, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, "body") and "expected" in error["message"], error


def test_what_is_no_store_is_refused_before_the_port_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with RunningServer("--store", str(tmp_path / "empty")) as running:
        assert running.process.wait(60) == 1
        running._reader.join(5)
        assert len(running.lines) == 1 and "not a store" in running.lines[0]


def test_a_store_that_cannot_be_written_is_said_and_what_is_sent_again_is_entered(tmp_path):
    with Client(tmp_path) as client:
        image_id, folder = client.ids()[0], client.store.root / "tmp"
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.touch()  # where files are to be written first; root may write where others may not
        answer = client.correct(image_id, complete=["cat"])
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "not_writable")
        assert str(tmp_path) not in answer.text and answer.headers["retry-after"] and client.ids()
        assert client.picture(image_id)["complete"] == []
        folder.unlink()
        assert client.correct(image_id, complete=["cat"]).json()["picture"]["complete"] == ["cat"]
        assert client.server.stop() == 0
        assert [line.split(":")[0] for line in client.server.lines[1:]] == ["florence2.serving.store_browser"]


def test_several_processes_show_what_any_of_them_wrote(tmp_path):
    """A correction through one process is seen at once through all; so is a listing, whatever was corrected since."""
    with Client(tmp_path, "--processes", "2") as client:

        def anew(path, **query):
            """Asked over a connection of its own: of whichever process takes it."""
            return httpx.get(f"{client.server.url}/v1/store{path}", params=query, timeout=30)

        end = time.monotonic() + 60
        while {anew("").status_code for _ in range(12)} != {200}:
            assert time.monotonic() < end
        ids = client.ids()
        for n, image_id in enumerate(ids[:5]):
            client.http.close()  # each correction by whichever process
            client.http = httpx.Client(base_url=client.server.url, timeout=60)
            change = [{"verdict": "added", "label": f"hen {n}", "box": [1, 1, 9, 9]}]
            made = client.correct(image_id, f"Person {n}", changes=change, complete=["dog"]).json()
            for _ in range(8):
                body = anew(f"/pictures/{image_id}").json()
                assert body["snapshot"] >= made["snapshot"] and f"hen {n}" in by_label(body)
                assert anew("/pictures", label=f"hen {n}").json()["total"] == 1
        first = anew("/pictures", order="store", review="open", limit=1).json()
        assert first["total"] == 3 and first["pictures"][0]["id"] == ids[5]
        assert client.correct(ids[5], complete=["cat"]).status_code == 200
        query = {"order": "store", "review": "open", "listing": first["listing"]}
        for _ in range(8):
            found = anew("/pictures", **query).json()
            assert (found["total"], [one["id"] for one in found["pictures"]]) == (3, ids[5:])
            assert anew(f"/pictures/{ids[6]}/place", **query).json()["place"] == 1
        assert anew("/pictures", order="store", review="open", listing="../../x").json()["total"] == 2
        assert client.server.stop() == 0 and client.store.verify() == []
