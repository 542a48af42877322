"""Order and batches: a pure function of the seed, pictures encoded once, no answer in a prompt, no held-out scene."""

from collections import Counter

import numpy as np
import pytest
import torch

from florence2 import scenes
from florence2.formats import jsonl
from florence2.model.image import preprocess
from florence2.model.tower_input import normalise
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.dry_run import dry_run
from florence2.training.order import Cursor
from florence2.training.run_folder import read_lines
from florence2.training.setup import prepare
from tests.training.tiny import tiny_config, tiny_run


def toy_set(folder, count=6):
    return str(write(folder / "toy", (scenes.draw(seed, signs=0, size=48) for seed in range(count))))


def job(tmp_path, **changes):
    return prepare(from_mapping(tiny_run(tmp_path, **changes)))


def batches(tmp_path, count=4, **changes):
    return list(job(tmp_path, **changes).first(count))


def pairs_of(planned):
    return [(p.epoch, p.source, p.picture.name, ask) for p in planned for ask in p.asks]


def epoch_of(order, epoch):
    return pairs_of(group for group, place in _until(order, epoch))


def _until(order, epoch):
    for group, place in order.stream(Cursor(epoch)):
        if place.epoch > epoch:
            return
        yield group, place


def test_an_epoch_holds_each_pair_once(tmp_path):
    source = {"path": toy_set(tmp_path), "tasks": ["OD", "REGION_TO_CATEGORY", "CAPTION"], "pairs": 3}
    made = job(tmp_path, data=[source], batch_size=7).order
    epoch, following = epoch_of(made, 0), epoch_of(made, 1)
    samples = list(jsonl.read(source["path"]))
    expected = sum(2 + len(sample.regions) for sample in samples)
    assert len(epoch) == len(set(epoch)) == expected == made.count(0)
    assert sorted(key[1:] for key in following) == sorted(key[1:] for key in epoch)
    assert [key[1:] for key in following] != [key[1:] for key in epoch]
    planned = made.batches(7, Cursor())
    stream = [key for _ in range(2 * expected // 7) for key in pairs_of(next(planned).pairs)]
    assert stream[:expected] == epoch and stream[expected:] == following[: len(stream) - expected]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_each_batch(tmp_path, ranks):
    made = job(tmp_path, data=[{"path": toy_set(tmp_path), "tasks": ["OD", "CAPTION"], "pairs": 2}]).order
    batches_planned = list(made.batches(6, Cursor(), epochs=3))
    assert len(batches_planned) > 3
    for planned in batches_planned:
        shares = [key for rank in range(ranks) for key in pairs_of(planned.share(rank, ranks).pairs)]
        assert shares == pairs_of(planned.pairs)


def test_the_stream_goes_on_at_any_cursor(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.training.order.BLOCK", 4)
    monkeypatch.setattr("florence2.training.order.STRETCH", 2)
    source = {"path": toy_set(tmp_path, 11), "tasks": ["OD", "REGION_TO_CATEGORY"], "pairs": 2}
    made = job(tmp_path, data=[source]).order
    whole = list(made.batches(5, Cursor(), epochs=2))
    assert sorted(key for batch in whole for key in pairs_of(batch.pairs)) == sorted(
        epoch_of(made, 0) + epoch_of(made, 1)
    )
    for number, batch in enumerate(whole[:-1]):
        rest = list(made.batches(5, batch.cursor, epochs=2))
        assert [pairs_of(b.pairs) for b in rest] == [pairs_of(b.pairs) for b in whole[number + 1 :]]


def test_weights_repeat_and_thin_pairs(tmp_path):
    path = toy_set(tmp_path)
    made = job(tmp_path, data=[{"path": path, "tasks": {"OD": 3, "CAPTION": 0.5}}]).order
    counts = Counter(key[3] for epoch in range(20) for key in epoch_of(made, epoch))
    assert counts[0] == 3 * 6 * 20  # the first ask of a sample is OD's
    assert 30 < counts[1] < 90  # 60 expected


def test_a_picture_is_encoded_once_for_asks_side_by_side(tmp_path):
    batch = batches(tmp_path, batch_size=8)[0]  # scenes, two asks each
    assert batch.pictures.shape == (4, 32, 32, 3) and batch.pictures.dtype == torch.uint8
    looked = torch.cat([part.picture for part in batch.parts])
    assert sorted(looked.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_batches_depend_on_nothing_but_their_number(tmp_path):
    one, other = batches(tmp_path), batches(tmp_path)
    for number in (3, 0, 2):
        ours, theirs = one[number], other[number]
        assert torch.equal(ours.pictures, theirs.pictures)
        assert all(torch.equal(a.labels, b.labels) for a, b in zip(ours.parts, theirs.parts))


def test_no_answer_stands_in_a_prompt(tmp_path):
    made = job(tmp_path, data=[{"path": toy_set(tmp_path), "tasks": ["OD", "DETAILED_CAPTION"]}])
    tokenizer = made.tokenizer
    prompts = {
        tuple(tokenizer.prompt_ids(p))
        for p in (
            "Locate the objects with category name in the image.",
            "Describe in detail what is shown in the image.",
        )
    }
    first = list(made.first(3))
    assert first and all(batch.parts for batch in first)
    for batch in first:
        for part in batch.parts:
            for ids, mask in zip(part.prompt_ids, part.prompt_mask):
                assert tuple(ids[mask].tolist()) in prompts
                assert not (ids[mask] >= tokenizer.loc0).any()


def test_targets_are_shifted_behind_the_start_token(tmp_path):
    part = batches(tmp_path)[0].parts[0]
    assert len(part.labels) > 1 and len({int((row >= 0).sum()) for row in part.labels}) > 1  # of several lengths
    for decoder_ids, labels in zip(part.decoder_ids, part.labels, strict=True):
        length = int((labels >= 0).sum())
        assert labels[0] == 0 and labels[length - 1] == 2
        assert decoder_ids[0] == 2 and decoder_ids[1:length].tolist() == labels[: length - 1].tolist()
        assert (labels[length:] == -100).all() and (decoder_ids[length + 1 :] == 1).all()


def test_held_out_scenes_are_refused(tmp_path):
    made = job(tmp_path, data=[{"path": f"scenes:count=10,seed={2**31 - 15}", "tasks": ["OD"]}]).order
    assert len(made.pictures(0)) == 10
    with pytest.raises(ValueError, match="held-out"):
        made.pictures(1)


def test_a_source_outside_its_epochs_gives_nothing(tmp_path):
    made = job(tmp_path, data=[
        {"path": "scenes:count=4,objects=1-1", "tasks": ["OD"], "epochs": [0, 0]},
        {"path": "scenes:count=6,objects=2-2,seed=100", "tasks": ["OD"], "epochs": [1, 9]},
    ]).order  # fmt: skip
    assert {key[1] for key in epoch_of(made, 0)} == {0} and {key[1] for key in epoch_of(made, 1)} == {1}


def test_a_target_over_the_limit_is_left_out_and_counted(tmp_path):
    source = {"path": toy_set(tmp_path), "tasks": ["OD", "CAPTION"]}
    lengths = [len(e.target_ids) for batch in batches(tmp_path, data=[source]) for e in batch.examples]
    made = batches(tmp_path, count=1, data=[source], batch_size=12, max_target=sorted(lengths)[-1] - 1)
    (batch,) = made
    assert batch.left_out and batch.pairs + len(batch.left_out) == 12
    assert {lost.reason for lost in batch.left_out} == {"too_long"}


def test_training_sees_the_pixels_that_inference_sees(tmp_path):
    batch = batches(tmp_path, data=[{"path": toy_set(tmp_path), "tasks": ["OD"]}])[0]
    config = tiny_config(1000)
    for picture, row in zip(batch.pictures, normalise(batch.pictures, config), strict=True):
        assert np.array_equal(row.numpy(), preprocess(picture.numpy(), config))


def test_epochs_that_small_weights_leave_empty_are_passed_over(tmp_path):
    thin = {"path": toy_set(tmp_path), "tasks": ["OD"], "weight": 0.02}
    made = job(tmp_path, data=[thin]).order
    found = list(made.stream(Cursor(), 60))
    epochs = {place.epoch for _, place in found}
    assert 0 < len(epochs) < 20 and len(found) == sum(made.count(epoch) for epoch in range(60))
    none = job(tmp_path, data=[{**thin, "weight": 1e-12}]).order
    with pytest.raises(ValueError, match="no pair in 100 epochs in a row, up to epoch 99; raise the weights"):
        next(none.batches(4, Cursor()))


def test_the_stream_ends_with_the_epochs_of_its_sources(tmp_path):
    path = toy_set(tmp_path)
    spans = [{"path": path, "tasks": ["OD"], "epochs": [0, 1]}, {"path": path, "tasks": ["CAPTION"], "epochs": [1, 2]}]
    made = job(tmp_path, data=spans, steps=2).order
    assert Counter(key[0] for batch in made.batches(4, Cursor()) for key in pairs_of(batch.pairs)) == {
        0: 6,
        1: 12,
        2: 6,
    }


def test_a_cursor_knows_how_many_pairs_are_before_it(tmp_path):
    source = {"path": toy_set(tmp_path), "tasks": ["OD", "REGION_TO_CATEGORY"], "pairs": 3}
    made = job(tmp_path, data=[source]).order
    met, whole = 0, list(made.batches(5, Cursor(), epochs=2))
    for batch in whole:
        met += len(pairs_of(batch.pairs))
        assert batch.cursor.met == met
    assert met == made.count(0) + made.count(1)
    assert [batch.cursor.met for batch in made.batches(5, whole[2].cursor, epochs=2)][-1] == met


@pytest.mark.parametrize("change, said", [
    ({"steps": 30}, "no source is used in epoch 3 .*steps: 30 goes on to it; .*or give steps: 5"),
    ({"steps": 6}, "no source is used in epoch 3 .*or give steps: 5"),
    ({"epochs": 3.5}, "no source is used in epoch 3 .*epochs: 3.5 goes on to it; .*or give epochs: 3"),
    ({"span": [1, 9], "steps": 1}, "no source is used in epoch 0 .*widen the epochs of a source$"),
])  # fmt: skip
def test_a_run_that_would_outlast_its_sources_is_refused_before_its_first_step(tmp_path, change, said):
    """Six pairs an epoch for three epochs: four batches of four, and one of two."""
    source = {"path": toy_set(tmp_path), "tasks": ["OD"], "epochs": change.get("span", [0, 2])}
    more = {key: value for key, value in change.items() if key != "span"}
    config = tiny_run(tmp_path, data=[source], dense=0, **{"batch_size": 4, "steps": 5, **more})
    for made in (train, lambda config: dry_run(from_mapping(config))):
        with pytest.raises(ValueError, match=said):
            made(config)
    assert not (tmp_path / "out").exists()
    if "steps" in more and "span" not in change:
        assert train({**config, "steps": 5}).steps == 5
        assert [row["pairs"] for row in read_lines(tmp_path / "out" / "metrics.jsonl")] == [4, 4, 4, 4, 2]


def test_a_run_whose_pairs_are_fewer_than_expected_ends_and_says_so(tmp_path):
    """Half of six pairs are expected in an epoch; of this one fewer are drawn."""
    source = {"path": toy_set(tmp_path), "tasks": ["OD"], "weight": 0.5}
    more = {"data": [source], "dense": 0, "batch_size": 1, "epochs": 1}
    seed, count = next(
        (seed, count) for seed in range(20) if 0 < (count := job(tmp_path, **more, seed=seed).order.count(0)) < 3
    )
    said = []
    result = train(tiny_run(tmp_path, **more, seed=seed), on_message=said.append)
    assert result.steps == count and f"data: all pairs are met after {count} of 3 steps" in said
