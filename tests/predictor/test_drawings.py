"""The shipped nano warns of a photograph once a process; of drawings, and trained further, it does not."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

import florence2
from florence2.model.image import preprocess
from florence2.predictor import drawings
from florence2.predictor.checkpoints import SHIPPED
from florence2.predictor.drawings import is_photograph
from florence2.scenes import TRAINING_SEEDS, draw, draw_page
from tests.shared import shared


@pytest.fixture
def nano(monkeypatch):
    monkeypatch.setattr(drawings, "_warned", False)
    return florence2.load("nano")


def photograph(seed: int) -> np.ndarray:
    """Smooth shades and texture of many colours."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, np.float32) + rng.normal(0, 20, (120, 160, 3)), 0, 255).astype(np.uint8)


def test_it_is_said_once(nano, caplog):
    with caplog.at_level(logging.WARNING):
        nano.predict(draw(TRAINING_SEEDS)[0], "<OD>")
        assert not caplog.records
        for seed in range(2):
            nano.predict(photograph(seed), "<OD>", max_new_tokens=4)
        list(nano.predict_many([photograph(3)], "<CAPTION>", max_new_tokens=4))
    (record,) = caplog.records
    assert "nano knows drawn scenes alone" in record.message


def test_a_model_trained_further_is_not_judged(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(drawings, "_warned", False)
    shutil.copytree(SHIPPED / "nano", tmp_path / "tuned")
    florence2.load(tmp_path / "tuned").predict(photograph(0), "<OD>", max_new_tokens=4)
    assert not caplog.records and not drawings._warned


def test_drawn_scenes_and_pages_are_no_photographs(nano):
    pictures = [draw(TRAINING_SEEDS + i, objects=(1, 5), min_side=0.1, signs=0.5)[0] for i in range(60)]
    pictures += [draw_page(TRAINING_SEEDS + i)[0] for i in range(10)]
    assert not any(is_photograph(preprocess(array, nano.config), nano.config) for array in pictures)


def test_most_photographs_are(nano):
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(shared("data/photos").glob("*.jpg"))]
    found = [is_photograph(preprocess(array, nano.config), nano.config) for array in arrays]
    assert len(found) == 5 and sum(found) >= 4
