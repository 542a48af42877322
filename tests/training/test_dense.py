"""The dense loss's targets: what is ignored is not background, and a place is a place however it is written."""

import numpy as np
import torch

from florence2.records import ImageRef, Region, Sample
from florence2.training.dense import DenseHead, Vocabulary, cell_counts, cell_targets

SIDE = 8


def targets_of(*regions):
    sample = Sample("a", ImageRef("a", "a.png", width=80, height=80), regions=regions)
    return cell_targets(sample, Vocabulary(("cat",), ("cat",)), SIDE)


def batch_of(targets):
    return {key: torch.from_numpy(value[None]) for key, value in targets.items()}


def test_a_crowds_cells_are_not_scored_but_where_an_object_is():
    cat = Region(id="r", box=(10, 10, 29, 29), label="cat")
    crowd = Region(id="c", box=(0, 0, 40, 80), label="cat", ignore=True)
    alone, beside = targets_of(cat), targets_of(cat, crowd)
    assert (beside["object"][:, 4:] == 0).all() and (beside["object"][alone["object"] == 1] == 1).all()
    assert (beside["object"][:, :4] == np.where(alone["object"][:, :4] == 1, 1, -1)).all()
    assert (
        cell_counts(batch_of(beside))["object"]
        == cell_counts(batch_of(alone))["object"] - (beside["object"] == -1).sum()
    )


def test_what_is_said_of_cells_that_are_not_scored_changes_nothing():
    torch.manual_seed(0)
    head = DenseHead(4, Vocabulary(("cat",), ("cat",)))
    targets = targets_of(Region(id="c", box=(0, 0, 40, 80), label="cat", ignore=True))
    feature_map = torch.randn(1, SIDE, SIDE, 4, requires_grad=True)
    parts = head.loss(feature_map, batch_of(targets))
    sum(parts.values()).backward()
    moved = feature_map.grad.abs().sum(-1)[0] > 0
    assert moved[:, 4:].all() and not moved[:, :4].any()


def test_a_place_without_a_box_is_one():
    quad = Region(id="t", quad=(10, 10, 50, 10, 50, 30, 10, 30), label="ab", kind="text")
    boxed = Region(id="t", box=(10, 10, 50, 30), label="ab", kind="text")
    for key, value in targets_of(boxed).items():
        assert np.array_equal(targets_of(quad)[key], value)
    assert targets_of(quad)["letters"].sum() == 2
