"""Nothing is left out in silence: what cannot be trained on is counted and named, and too much of it is refused."""

import json
from pathlib import Path

import pytest

from florence2 import scenes, sources
from florence2.cli import main
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.dry_run import dry_run
from florence2.training.run_folder import read_lines
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run


def toy(tmp_path, count=8, change=None):
    """A set of scenes as JSON Lines, its rows changed."""
    path = write(tmp_path / "toy", (scenes.draw(seed, signs=0, size=48) for seed in range(count)))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        if change:
            change(number, row, path.parent)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(tmp_path, path, tasks=("OD",), **more):
    said = []
    config = tiny_run(tmp_path, data=[{"path": str(path), "tasks": list(tasks)}], dense=0, batch_size=2, **more)
    return train(config, on_message=said.append), config, said


def truncate(number, row, folder):
    if number == 5:
        file = folder / row["image"]["uri"]
        file.write_bytes(file.read_bytes()[:-300])


def long_caption(count):
    def change(number, row, folder):
        if number < count:
            row["texts"] = [{"id": "t", "detail": "brief", "text": "star " * 400}]
            row.pop("groundings", None)

    return change


def test_a_truncated_picture_is_left_out_and_named(tmp_path):
    path = toy(tmp_path, change=truncate)
    result, config, _ = run(tmp_path, path, steps=8)
    rows = read_lines(Path(config["out"]) / "metrics.jsonl")
    assert result.steps == 8 and sum(row["left_out"] for row in rows) >= 1
    (lost,) = read_lines(Path(config["out"]) / "left_out.jsonl")
    name = json.loads(path.read_text().splitlines()[5])["image"]["uri"].rsplit("/", 1)[-1]
    assert lost["image"].endswith(name) and lost["reason"] in ("truncated", "damaged")
    assert name in result.left_out


def test_with_batches_of_one_every_step_learns_something(tmp_path):
    path = toy(tmp_path, change=truncate)
    config = tiny_run(tmp_path, data=[{"path": str(path), "tasks": ["OD"]}], dense=0, batch_size=1, steps=8)
    train(config)
    rows = read_lines(Path(config["out"]) / "metrics.jsonl")
    assert all(row["tokens"] and row["loss"] > 0 for row in rows) and sum(row["left_out"] for row in rows) == 1


def test_raise_names_it_before_the_first_step(tmp_path):
    path = toy(tmp_path, change=truncate)
    with pytest.raises(ValueError, match="on_error: skip"):
        run(tmp_path, path, on_error="raise")
    assert not (tmp_path / "out").exists()


def test_all_too_long_is_refused_before_the_first_step(tmp_path):
    path = toy(tmp_path, change=long_caption(8))
    with pytest.raises(ValueError, match="no pair is left.*too_long.*max_target is 256.*raise max_target"):
        run(tmp_path, path, ["CAPTION"])
    assert not (tmp_path / "out").exists()


def test_more_than_half_too_long_is_refused_and_half_is_said(tmp_path):
    with pytest.raises(ValueError, match="only 3 of 8 pairs are left"):
        run(tmp_path, toy(tmp_path, change=long_caption(5)), ["CAPTION"])
    result, _, said = run(tmp_path, toy(tmp_path, change=long_caption(4)), ["CAPTION"], steps=8)
    assert "4 too_long" in result.left_out and "of 8 pairs examined are left out: 4 too_long" in said[0]


def test_a_long_question_is_left_out_and_named(tmp_path):
    def change(number, row, folder):
        question = "how many stars " * (600 if number == 2 else 1)
        row.pop("groundings", None)
        row["texts"] = [{"id": "q", "detail": "answer", "text": "two", "question": question}]

    path = toy(tmp_path, change=change)
    result, config, _ = run(tmp_path, path, ["DocVQA"], steps=4)
    assert "1 long_prompt" in result.left_out
    assert main(["data", "check", str(path), "--task", "DocVQA", "--model", config["model"]]) == 1


def test_a_picture_of_another_size_is_left_out(tmp_path):
    def change(number, row, folder):
        if number == 3:
            row["image"] |= {"width": 96, "height": 40}

    path = toy(tmp_path, change=change)
    result, config, _ = run(tmp_path, path, steps=4)
    assert "1 unreadable" in result.left_out and "96 x 40" in result.left_out
    assert main(["data", "check", str(path), "--task", "OD", "--model", config["model"]]) == 1


def test_an_empty_caption_and_a_box_outside_are_left_out(tmp_path):
    def change(number, row, folder):
        row.pop("groundings", None)
        if number == 3:
            row["texts"] = [{"id": "t", "detail": "brief", "text": " "}]
        if number == 4:
            row["regions"][0]["box"] = [60, 60, 90, 90]  # the picture ends at 48
        if number == 5:
            row["regions"][0]["box"] = [10, 10, 10, 20]

    path = toy(tmp_path, change=change)
    result, _, said = run(tmp_path, path, ["CAPTION", "REGION_TO_CATEGORY"], steps=4)
    for counted in ("1 empty", "1 unreadable (truth.jsonl:5", "lies outside its picture", "1 flat"):
        assert counted in result.left_out and counted in said[0]
    regions = sum(len(json.loads(line)["regions"]) for line in path.read_text().splitlines())
    source = {"path": str(path), "tasks": ["CAPTION", "REGION_TO_CATEGORY"]}
    job = prepare(from_mapping(tiny_run(tmp_path, data=[source], dense=0)))
    assert job.order.count(0) == 7 + regions - 2


def test_a_broken_record_is_left_out_and_named(tmp_path):
    path = toy(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "{ not json", *lines[5:]]) + "\n")
    result, config, _ = run(tmp_path, path, steps=4)
    assert "1 unreadable" in result.left_out and f"{path}:5" in result.left_out
    with pytest.raises(ValueError, match=f"{path}:5"):
        run(tmp_path, path, on_error="raise", out=str(tmp_path / "other"))


def test_prompts_and_answers_train_and_questions_without_a_task_are_told(tmp_path):
    folder = toy(tmp_path).parent
    names = [json.loads(line)["image"]["uri"] for line in (folder / "truth.jsonl").read_text().splitlines()]
    rows = [{"image": name, "prefix": "<OD>", "suffix": "star<loc_1><loc_2><loc_300><loc_400>"} for name in names]
    rows += [{"image": names[0], "prefix": "How many stars?", "suffix": "one"}]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    source = {"path": str(path), "prefix_suffix": True}
    config = tiny_run(tmp_path, data=[source], dense=0, batch_size=2, steps=4)
    train(config, on_message=said.append)
    rows = read_lines(Path(config["out"]) / "metrics.jsonl")
    assert sum(row["pairs"] for row in rows) == 8 and not said  # the question is its own prompt
    kept = list(
        sources.open(path, format="prefix_suffix")
    )  # as any other set would hold them: which prompt is not known
    train({**config, "data": kept, "out": str(tmp_path / "kept")}, on_message=said.append)
    assert "1 answered questions are not trained" in said[0]
    train({**config, "data": [{**source, "tasks": ["VQA"]}], "out": str(tmp_path / "q"), "batch_size": 1})


def test_a_task_that_only_the_checkpoint_knows_is_trained_and_evaluated(tmp_path):
    config = tiny_run(tmp_path, data=[{"path": str(toy(tmp_path)), "tasks": ["WHAT"]}], dense=0, batch_size=2)
    row = {"token": "<WHAT>", "prompt": "What is it?", "gives": "text", "keeps": "brief"}
    (Path(config["model"]) / "tasks.json").write_text(json.dumps([row]))
    named = [{"path": config["data"][0]["path"], "tasks": ["WHAT"]}]
    train({**config, "steps": 2, "evaluate_every": 2, "validation": named, "validation_limit": 2})
    (found,) = read_lines(Path(config["out"]) / "evaluations.jsonl")
    assert "CIDEr" in found["metrics"]
    assert "<WHAT>" in (Path(config["out"]) / "tasks.json").read_text()


def test_a_set_without_the_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="8 samples hold no pair for DocVQA"):
        run(tmp_path, toy(tmp_path), ["DocVQA"])


def test_a_run_that_loses_most_pairs_on_its_way_stops(tmp_path, monkeypatch):
    """Headers are whole, so that only decoding finds it out, and none of these was decoded beforehand."""
    monkeypatch.setattr("florence2.training.loop.JUDGED", 8)
    monkeypatch.setattr("florence2.training.examine.DECODED", 0)

    def change(number, row, folder):
        file = folder / row["image"]["uri"]
        if number < 6:
            file.write_bytes(file.read_bytes()[:-300])

    with pytest.raises(ValueError, match="of .* pairs could not be trained on"):
        run(tmp_path, toy(tmp_path, change=change), steps=50)


def remove(number, row, folder):
    if number < 5:
        (folder / row["image"]["uri"]).unlink()


def test_pictures_that_are_not_there_are_found_before_the_first_step(tmp_path):
    path = toy(tmp_path, change=remove)
    with pytest.raises(ValueError, match="only 3 of 8 pairs are left.*5 missing"):
        run(tmp_path, path)
    assert not (tmp_path / "run").exists()


def test_pictures_that_were_never_fetched_are_found_before_the_first_step(tmp_path):
    def change(number, row, folder):
        row["image"]["uri"] = f"https://example.org/{number}.png"

    with pytest.raises(ValueError, match="8 not_fetched"):
        run(tmp_path, toy(tmp_path, change=change))


def test_a_set_of_which_nothing_can_be_read_says_why(tmp_path):
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    (tmp_path / "voc" / "Annotations" / "a.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"holds no sample that can be read: .*a.xml.* \(1 refused\)"):
        run(tmp_path, tmp_path / "voc")


def test_a_text_that_cannot_be_seen_is_no_caption(tmp_path):
    def change(number, row, folder):
        row["texts"] = [{"id": "t", "detail": "brief", "text": "\u200b \n" if number < 3 else "A star."}]
        row.pop("groundings", None)

    path = toy(tmp_path, change=change)
    job = prepare(from_mapping(tiny_run(tmp_path, data=[{"path": str(path), "tasks": ["CAPTION"]}], dense=0)))
    assert job.found.fit == 5 and job.found.unsound.counts == {"empty": 3}
    plan = dry_run(job.config)
    assert "3 empty" in plan.left_out


def test_what_a_reader_refuses_at_once_is_named_in_the_journal(tmp_path):
    """A broken file of a format that is read whole: no batch comes upon it again."""
    path = toy(tmp_path)
    names = [json.loads(line)["image"]["uri"] for line in path.read_text().splitlines()]
    rows = [{"image": name, "prefix": "<OD>", "suffix": "star<loc_1><loc_2><loc_300><loc_400>"} for name in names]
    lines = [*map(json.dumps, rows), json.dumps({**rows[0], "prefix": "<od>"})]
    (path.parent / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    for steps in (2, 4):  # also where the run goes on
        result, config, _ = run(tmp_path, path.parent / "pairs.jsonl", steps=steps)
        (lost,) = read_lines(Path(config["out"]) / "left_out.jsonl")
        assert lost["reason"] == "unreadable" and "write <OD>" in lost["detail"] and "1 unreadable" in result.left_out


def test_bad_boxes_are_no_lost_pairs(tmp_path):
    """Of a set with more bad boxes than pictures every picture is trained, without them."""
    path = toy(tmp_path)
    samples = list(sources.open(path))
    images = [{"id": n, "file_name": Path(s.image.uri).name, "width": 48, "height": 48} for n, s in enumerate(samples)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20]} for n in range(len(images))]
    boxes += [{"id": 100 + n, "image_id": n % 8, "category_id": 9, "bbox": [4, 4, 20, 20]} for n in range(20)]
    folder = Path(samples[0].image.uri).parent
    data = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "star"}]}
    (folder / "labels.json").write_text(json.dumps(data))
    result, _, said = run(tmp_path, folder / "labels.json", steps=4)
    assert "20 unreadable" in result.left_out and "category_id 9" in said[0] and "regions and texts" in said[0]
    job = prepare(
        from_mapping(tiny_run(tmp_path, data=[{"path": str(folder / "labels.json"), "tasks": ["OD"]}], dense=0))
    )
    assert (job.found.fit, job.found.pairs) == (8, 8)


@pytest.mark.parametrize("more", [{"dense": 1.0}, {"evaluate_every": 4}])
def test_what_is_read_before_the_examination_is_left_out_there_once(tmp_path, more):
    """A line that is no JSON, a picture without size or file, a bad box: none ends the start of a run that skips."""

    def change(number, row, folder):
        if number in (2, 5, 6, 7):
            row["regions"][0]["box"] = [20, 20, 4, 4]
        if number == 3:
            del row["image"]["width"], row["image"]["height"]
            (folder / row["image"]["uri"]).unlink()

    path = toy(tmp_path, 40, change)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "{ not json", *lines[5:]]) + "\n")
    job = prepare(from_mapping(tiny_run(tmp_path, data=[{"path": str(path), "tasks": ["OD"]}], **{"dense": 0, **more})))
    source = job.order.sources[0]
    rows = [json.loads(line) if number != 4 else {} for number, line in enumerate(lines)]
    bare = sum(source.trained(source.sample(n)) and len(rows[n]["regions"]) == 1 for n in (2, 5, 6, 7))
    assert job.found.lost.counts == {"unreadable": 1, "missing": 1, **({"no_truth": bare} if bare else {})}
    assert job.found.unsound.counts == {"unreadable": sum(source.trained(source.sample(n)) for n in (2, 5, 6, 7))}
