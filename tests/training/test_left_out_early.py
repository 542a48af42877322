"""A run that would train on nothing, or on under half of its pairs, stops: before its first step, and on its way."""

import json
from pathlib import Path

import pytest

from florence2 import sources
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.dry_run import dry_run
from florence2.training.loop import Losses
from florence2.training.order import Cursor
from florence2.training.run_folder import read_lines
from florence2.training.setup import prepare
from tests.training.test_left_out import run, toy
from tests.training.tiny import tiny_run

SIDE = 48  # of the toy's pictures


def cut(count):
    """Good headers, truncated data: of the first `count` pictures."""

    def change(number, row, folder):
        if number < count:
            file = folder / row["image"]["uri"]
            file.write_bytes(file.read_bytes()[:300])

    return change


@pytest.fixture
def undecoded(monkeypatch):
    """No picture is decoded before the first step."""
    monkeypatch.setattr("florence2.training.examine.DECODED", 0)


def config_of(tmp_path, path, **more):
    source = {"path": str(path), "tasks": ["OD"], **more.pop("source", {})}
    return from_mapping(tiny_run(tmp_path, **{"data": [source], "dense": 0, "batch_size": 2, **more}))


@pytest.mark.parametrize(("bad", "left"), [(8, "no pair is left"), (7, "only 1 of 8 pairs"), (5, "only 3 of 8 pairs")])
def test_pictures_that_do_not_decode_are_found_before_the_first_step(tmp_path, bad, left):
    path = toy(tmp_path, change=cut(bad))
    with pytest.raises(ValueError, match=f"{left}.*{bad} truncated.*mend or remove the pictures"):
        run(tmp_path, path, epochs=3, steps=9)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=left):
        dry_run(config_of(tmp_path, path))


def test_half_that_does_not_decode_is_said_also_by_the_dry_run(tmp_path):
    plan = dry_run(config_of(tmp_path, toy(tmp_path, change=cut(4))))
    assert "4 truncated" in plan.left_out


def test_of_a_larger_set_some_pictures_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.training.examine.DECODED", 8)
    path = toy(tmp_path, 24, cut(24))
    with pytest.raises(ValueError, match="no pair is left.*8 truncated"):
        run(tmp_path, path)
    with pytest.raises(ValueError, match="only about .* of 24 pairs"):
        run(tmp_path, toy(tmp_path / "more", 24, cut(20)))
    assert prepare(config_of(tmp_path, toy(tmp_path / "few", 24, cut(3)))).found.pairs == 24


def test_a_small_set_is_judged_once_every_pair_was_met(tmp_path, undecoded):
    path = toy(tmp_path, change=cut(5))
    with pytest.raises(ValueError, match="of .* pairs could not be trained on.*truncated"):
        run(tmp_path, path, steps=50, save_every=50)
    assert len(read_lines(tmp_path / "out" / "metrics.jsonl")) <= 5
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_run_shorter_than_its_set_is_judged_when_it_ends(tmp_path, undecoded):
    path = toy(tmp_path, 40, cut(36))
    with pytest.raises(ValueError, match="of .* pairs could not be trained on"):
        run(tmp_path, path, steps=3, save_every=3)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_exactly_half_is_trained_wherever_the_run_ends(tmp_path, undecoded):
    path = toy(tmp_path, change=cut(4))
    for steps in range(4, 13):
        assert run(tmp_path, path, steps=steps, out=str(tmp_path / str(steps)))[0].steps == steps


def test_the_judgement_on_the_way(tmp_path):
    def refused(pairs, lost, epoch, ended=False):
        losses = Losses(tmp_path, False, epoch)
        losses.add(1, [], pairs, lost)
        try:
            losses.refuse_half(ended)
        except ValueError:
            return True
        return False

    assert refused(5, 7, 12) and not refused(6, 6, 12)
    assert not refused(7, 9, 12)  # half of 12, of the next 4 three by chance
    assert refused(1, 3, 12, ended=True) and not refused(1, 3, 12)
    assert refused(99, 101, 1000) and not refused(99, 100, 1000)
    assert refused(12, 52, 12)  # a batch of several epochs


def test_what_holds_no_pair_at_the_start_is_no_loss_of_0(tmp_path, undecoded):
    with pytest.raises(ValueError, match="40 batches hold no pair.*truncated"):
        run(tmp_path, toy(tmp_path, change=cut(8)))
    assert not list((tmp_path / "out").glob("*.json*"))


@pytest.mark.parametrize("more", [{"save_every": 1}, {"evaluate_every": 1}])
def test_a_run_without_a_token_publishes_nothing(tmp_path, undecoded, monkeypatch, more):
    monkeypatch.setattr("florence2.training.setup.TrainingJob.first", lambda job, count: iter(()))
    monkeypatch.setattr("florence2.training.loop.Losses.refuse_half", lambda losses, ended=False: None)
    with pytest.raises(ValueError, match="after . steps no pair could be trained on.*truncated"):
        run(tmp_path, toy(tmp_path, 12, cut(12)), steps=3, **more)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_first_step_that_learns_nothing_is_not_evaluated_and_the_run_goes_on(tmp_path, undecoded):
    path = toy(tmp_path, 12)
    more = {"batch_size": 1, "evaluate_every": 1, "steps": 5, "save_every": 1}
    planned = next(prepare(config_of(tmp_path, path, **more)).order.batches(1, Cursor()))
    for group in (*planned.pairs, *planned.spare):
        file = Path(group.picture.sample.image.uri)
        file.write_bytes(file.read_bytes()[:300])
    config = config_of(tmp_path, path, **more)
    train(config)
    rows = read_lines(Path(config.out) / "metrics.jsonl")
    assert [bool(row["tokens"]) for row in rows] == [False, True, True, True, True]
    assert [row["step"] for row in read_lines(Path(config.out) / "evaluations.jsonl")] == [2, 3, 4, 5]


def test_a_pair_is_left_out_once_also_where_the_spare_ones_fail(tmp_path, undecoded):
    job = prepare(config_of(tmp_path, toy(tmp_path, change=cut(8)), batch_size=4))
    batch = job.maker[next(job.order.batches(4, Cursor()))]
    assert not batch.pairs and sum(lost.pairs for lost in batch.left_out) == 4


# what the reader of labels refuses


def labelled(tmp_path, format, bad, fault, empty=0, count=8):
    """A set of `count` pictures, each with a box; the last `bad` of them with a fault, `empty` more without a box."""
    folder = toy(tmp_path, count + empty).parent
    names = [json.loads(line)["image"]["uri"] for line in (folder / "truth.jsonl").read_text().splitlines()]
    rows = []
    for number, name in enumerate(names):
        wrong = count - bad <= number < count
        size = (100, 480) if wrong and fault == "size" else (SIDE, SIDE)
        box = (500, 500, 520, 520) if wrong and fault == "outside" else (4, 4, 20, 20)
        rows.append((name, size, [box] if number < count else []))
    return {"jsonl": as_jsonl, "coco": as_coco, "voc": as_voc}[format](folder, rows)


def as_jsonl(folder, rows):
    lines = []
    for name, (width, height), boxes in rows:
        image = {"id": name, "uri": name, "width": width, "height": height}
        regions = [{"id": "r", "label": "cat", "kind": "object", "box": box} for box in boxes]
        lines.append(json.dumps({"id": name, "image": image, "regions": regions}) + "\n")
    (folder / "set.jsonl").write_text("".join(lines))
    return folder / "set.jsonl"


def as_coco(folder, rows):
    images = [{"id": n, "file_name": name, "width": w, "height": h} for n, (name, (w, h), _) in enumerate(rows)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, (_, _, boxes) in enumerate(rows)
        for x1, y1, x2, y2 in boxes
    ]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "set.json").write_text(json.dumps(data))
    return folder / "set.json"


def as_voc(folder, rows):
    (folder / "Annotations").mkdir()
    for name, (width, height), boxes in rows:
        objects = "".join(
            f"<object><name>cat</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
            "</object>"
            for a, b, c, d in boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        text = f"<annotation><filename>{Path(name).name}</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{Path(name).stem}.xml").write_text(text)
    return folder


FORMATS = pytest.mark.parametrize("format", ["jsonl", "coco", "voc"])
FAULTS = pytest.mark.parametrize("fault", ["size", "outside"])


@FORMATS
@FAULTS
def test_a_picture_whose_labels_are_all_refused_is_a_lost_pair(tmp_path, format, fault):
    path = labelled(tmp_path, format, 7, fault)
    images = str(path.parent / "images") if format == "jsonl" else ""
    source = {"source": {"images": images}} if images and Path(images).is_dir() else {}
    with pytest.raises(ValueError, match="only 1 of 8 pairs are left.*7 no_truth.*mend the labels"):
        prepare(config_of(tmp_path, path, **source))


@FORMATS
@FAULTS
def test_half_of_them_are_named_each_with_its_picture(tmp_path, format, fault):
    path = labelled(tmp_path, format, 4, fault, empty=20)
    result, config, said = run(tmp_path, path, steps=4)
    pairs = 8 if format == "jsonl" else 28  # of the others an empty picture is one without any object
    assert f"of {pairs} pairs examined are left out: 4 no_truth" in said[0] and "4 no_truth" in result.left_out
    rows = read_lines(Path(config["out"]) / "left_out.jsonl")
    lost = {Path(row["image"]).name: row for row in rows if row["reason"] == "no_truth"}
    assert len(lost) == 4 and all(row["pairs"] == 1 for row in lost.values())
    labels = [row for row in rows if row["reason"] == "unreadable"]  # which are no pairs
    assert len(labels) == 4 and not any(row["pairs"] for row in labels)
    if format != "jsonl":
        assert {Path(row["image"]).name for row in labels} == set(lost)
        assert next(iter(lost)) in said[1]


def test_a_lost_label_is_no_lost_pair_of_a_task_about_texts(tmp_path):
    path = labelled(tmp_path, "jsonl", 6, "outside")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:2]:
        row["texts"] = [{"id": "t", "detail": "brief", "text": "A star."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = prepare(config_of(tmp_path, path, source={"tasks": ["CAPTION"]}))
    assert (job.found.fit, job.found.pairs) == (2, 2)


def test_regions_without_an_area_leave_no_truth(tmp_path):
    def change(number, row, folder):
        for region in row["regions"] if number < 5 else ():
            region["box"] = [10, 10, 10, 20]

    with pytest.raises(ValueError, match="only 3 of 8 pairs are left.*5 no_truth"):
        run(tmp_path, toy(tmp_path, change=change))


def test_a_set_without_any_truth_left_is_refused_beside_another(tmp_path):
    source = {"path": str(labelled(tmp_path, "coco", 8, "outside")), "tasks": ["OD"]}
    drawn = {"path": "scenes:count=64,objects=1-2,signs=0", "tasks": ["OD"]}
    with pytest.raises(ValueError, match=r"data\[1\].*8 samples hold no pair for OD: 8 no_truth"):
        prepare(config_of(tmp_path, "", data=[drawn, source]))


def test_bad_lines_of_other_parts_do_not_count(tmp_path):
    folder = toy(tmp_path).parent
    names = [json.loads(line)["image"]["uri"] for line in (folder / "truth.jsonl").read_text().splitlines()]
    good = [{"image": name, "prefix": "<OD>", "suffix": "star<loc_1><loc_2><loc_300><loc_400>"} for name in names]
    for part, bad in (("train", 1), ("valid", 9), ("test", 9)):
        (tmp_path / "set" / part).mkdir(parents=True)
        rows = [{**row, "image": str(folder / row["image"])} for row in good]
        rows += [{**rows[0], "prefix": "<od>"}] * bad
        (tmp_path / "set" / part / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"split": "train", "format": "prefix_suffix", "images": str(folder)}
    found = prepare(config_of(tmp_path, tmp_path / "set", source=source)).found
    assert (found.fit, found.pairs) == (8, 9)
    with pytest.raises(ValueError, match="pairs are left"):
        found = prepare(config_of(tmp_path, tmp_path / "set", source={**source, "split": "test"}))


def test_of_a_large_set_the_refused_records_count_by_the_share_that_was_examined(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.training.examine.WHOLE", 10)
    monkeypatch.setattr("florence2.training.examine.DRAWN", 5)
    folder = toy(tmp_path, 20).parent
    names = [json.loads(line)["image"]["uri"] for line in (folder / "truth.jsonl").read_text().splitlines()]
    rows = [{"image": name, "prefix": "<OD>", "suffix": "star<loc_1><loc_2><loc_300><loc_400>"} for name in names]
    rows += [{**row, "prefix": "<od>"} for row in rows[:12]]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prepare(config_of(tmp_path, folder / "pairs.jsonl")).found
    assert (found.fit, found.pairs) == (5, 8)
    assert sum(row.pairs for row in found.records) == 12


def test_the_labels_that_rows_of_a_table_lose_are_their_own(tmp_path):
    """Rows share a file: the row says which of them lost its label."""
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = toy(tmp_path).parent
    samples = list(sources.open(folder / "truth.jsonl"))
    boxes = [[4, 4, 16, 16]] * 2 + [[500, 500, 20, 20]] * 6
    rows = [
        {
            "image": {"bytes": Path(sample.image.uri).read_bytes(), "path": f"{number}.png"},
            "objects": {"bbox": [box], "category": ["cat"]},
        }
        for number, (sample, box) in enumerate(zip(samples, boxes))
    ]
    (tmp_path / "table").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table" / "train.parquet")
    with pytest.raises(ValueError, match="only 2 of 8 pairs are left.*6 no_truth"):
        prepare(config_of(tmp_path, tmp_path / "table"))
