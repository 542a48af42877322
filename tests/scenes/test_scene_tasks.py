"""Every official task can be trained and scored from what is drawn."""

import pytest

from florence2.codec.answers import canonical, parse, render
from florence2.codec.tasks import TASKS, prompt_text
from florence2.scenes import draw, draw_page


@pytest.fixture(scope="module")
def samples():
    return [draw(seed)[1] for seed in range(40)] + [draw_page(seed)[1] for seed in range(10)]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_task_has_truths_that_render_and_parse(task, samples):
    told = 0
    for sample in samples:
        size_wh = sample.image.size_wh
        for ask, truth in task.truths(sample):
            assert prompt_text(ask, size_wh)
            target = render(truth, task, size_wh, ask)
            assert parse(target, task, size_wh, ask) == canonical(truth, task, size_wh, ask)
            told += bool(target)
    assert told >= 8


def test_pages_are_told_in_reading_order(samples):
    pages = samples[40:]
    assert pages
    for sample in pages:
        ((_, truth),) = TASKS["<OCR_WITH_REGION>"].truths(sample)
        assert [region.label for region in truth.regions] == [region.label for region in sample.regions]


def test_a_kind_that_is_not_there_can_be_asked_for(samples):
    asked = TASKS["<OPEN_VOCABULARY_DETECTION>"].truths(samples[0])
    assert sum(not truth.regions for _, truth in asked) == 2
