"""The shipped nano: small, trained by its recipe on scenes that are not held out, and it looks at the picture."""

import numpy as np
import pytest

import florence2
from florence2 import geometry
from florence2.codec.tasks import QUESTIONS, TASKS
from florence2.metrics.detection import DetectionF1
from florence2.predictor.checkpoints import SHIPPED, SHIPPED_NAMES
from florence2.scenes import TRAINING_SEEDS, draw
from florence2.sources.scenes import parse
from florence2.training.config_files import read_config
from florence2.training.datasets import open_source
from florence2.training.order import PairOrder
from florence2.training.setup import mixture


def test_they_are_small_and_their_cards_are_there():
    folders = [SHIPPED / name for name in SHIPPED_NAMES]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 30e6
    for folder in folders:
        assert f"florence2 train --config {folder.name}" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", [*SHIPPED_NAMES, "small"])
def test_its_recipe_sees_scenes_below_the_held_out_seeds_and_nothing_else(name):
    config = read_config(name)
    table = {**TASKS, **QUESTIONS}
    datasets = [open_source(source, mixture(source, table), (128, 128)) for source in config.data]
    order = PairOrder(datasets, config.seed)
    pairs = config.steps * config.accumulate * config.batch_size
    seen = epoch = 0
    while seen < pairs:
        for source, number in order.pictures(epoch)[[0, -1]].tolist():
            assert int(datasets[source].plan(number, epoch, 0).name.removeprefix("scene-")) < TRAINING_SEEDS
        seen += sum(d.count(epoch) * d.pairs for d in datasets if d.active(epoch))
        epoch += 1
    assert not any(parse(source.path).get("withheld") for source in config.data)


def test_it_finds_what_is_there_and_not_on_a_grey_picture():
    model = florence2.load("nano")
    scenes = [draw(TRAINING_SEEDS + i) for i in range(32)]
    seen, grey = DetectionF1(), DetectionF1()
    answers = list(model.predict_many([pixels for pixels, _ in scenes], "<OD>", batch_size=16))
    blind = model.predict(np.full((128, 128, 3), 128, np.uint8), "<OD>")
    for (_, sample), answer in zip(scenes, answers):
        truth = [region for region in sample.regions if region.kind == "object"]
        seen.update(truth, answer.regions)
        grey.update(truth, blind.regions)
    assert seen.compute()["F1"] > 0.85 and seen.compute()["label_accuracy"] > 0.85
    assert grey.compute()["F1"] < 0.1


def test_at_256_pixels_many_things_are_named():
    model = florence2.load("nano_256")
    assert model.config.image_size_wh == (256, 256) and model.drawings_only
    scenes = [draw(TRAINING_SEEDS + i, objects=(5, 12), min_side=0.08, size=256) for i in range(12)]
    seen = DetectionF1()
    for (_, sample), answer in zip(scenes, model.predict_many([pixels for pixels, _ in scenes], "<OD>", batch_size=12)):
        seen.update([region for region in sample.regions if region.kind == "object"], answer.regions)
    assert seen.compute()["F1"] > 0.35 and seen.compute()["label_accuracy"] > 0.75


def test_every_task_is_answered():
    model = florence2.load("nano")
    pixels, sample = draw(TRAINING_SEEDS + 4, signs=1.0)
    sign, thing = sorted(sample.regions, key=lambda region: region.kind != "text")
    box, found = thing.box, {}
    for task in florence2.TASKS.values():
        given = (
            {"text": f"the {thing.label}"}
            if task.input_kind == "text"
            else {"region": box}
            if task.input_kind == "region"
            else {}
        )
        answer = model.predict(pixels, task.token, max_new_tokens=64, **given)
        assert answer.size_wh == (128, 128) and not answer.truncated
        assert len(answer.texts) == (task.output_kind == "text") and len(answer.regions) == (not answer.texts), task
        found[task.name] = answer
    for name in ("OD", "REGION_TO_CATEGORY"):
        assert found[name].labels.tolist() == [thing.label], name
    assert all(thing.label in found[name].texts[0].text for name in ("CAPTION", "DETAILED_CAPTION"))
    boxes = ("OD", "DENSE_REGION_CAPTION", "REGION_PROPOSAL", "CAPTION_TO_PHRASE_GROUNDING")
    assert min(geometry.iou([found[name].xyxy[0] for name in boxes], [box])) > 0.8
    assert geometry.iou([found["OCR_WITH_REGION"].xyxy[0]], [sign.box]) > 0.6
