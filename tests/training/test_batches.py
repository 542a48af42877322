"""Order and batches: a pure function of the seed, pictures encoded once, no answer in a prompt, no held-out scene."""

from collections import Counter

import pytest
import torch

from florence2 import scenes
from florence2.formats import jsonl
from florence2.scenes.files import write
from florence2.training.config import from_mapping
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run


def toy_set(folder, count=6):
    return str(write(folder / "toy", (scenes.draw(seed, signs=0, size=48) for seed in range(count))))


def batches(tmp_path, **changes):
    return prepare(from_mapping(tiny_run(tmp_path, **changes))).batches


def test_an_epoch_holds_each_pair_once(tmp_path):
    source = {"path": toy_set(tmp_path), "tasks": ["OD", "REGION_TO_CATEGORY", "CAPTION"], "pairs": 3}
    made = batches(tmp_path, data=[source], batch_size=7)
    epoch = made.epoch(0)
    samples = list(jsonl.read(source["path"]))
    expected = sum(2 + len(sample.regions) for sample in samples)
    assert len(epoch) == len(set(epoch)) == expected
    assert sorted(key[1:] for key in made.epoch(1)) == sorted(key[1:] for key in epoch)
    assert [key[1:] for key in made.epoch(1)] != [key[1:] for key in epoch]
    stream = [key for number in range(2 * expected // 7) for key in made.pair_keys(number)]
    assert stream[:expected] == epoch


def test_weights_repeat_and_thin_pairs(tmp_path):
    path = toy_set(tmp_path)
    made = batches(tmp_path, data=[{"path": path, "tasks": {"OD": 3, "CAPTION": 0.5}}])
    counts = Counter()
    for epoch in range(20):
        for key in made.epoch(epoch):
            counts[made.datasets[0]._truths(key[2])[key[3]][0].token] += 1
    assert counts["<OD>"] == 3 * 6 * 20
    assert 30 < counts["<CAPTION>"] < 90  # 60 expected


def test_a_picture_is_encoded_once_for_asks_side_by_side(tmp_path):
    made = batches(tmp_path, batch_size=8)  # scenes, two asks each
    batch = made[0]
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
    made = batches(tmp_path, data=[{"path": toy_set(tmp_path), "tasks": ["OD", "DETAILED_CAPTION"]}])
    tokenizer = made.tokenizer
    prompts = {
        tuple(tokenizer.prompt_ids(p))
        for p in (
            "Locate the objects with category name in the image.",
            "Describe in detail what is shown in the image.",
        )
    }
    for number in range(3):
        for part in made[number].parts:
            for ids, mask in zip(part.prompt_ids, part.prompt_mask):
                assert tuple(ids[mask].tolist()) in prompts
                assert not (ids[mask] >= tokenizer.loc0).any()


def test_targets_are_shifted_behind_the_start_token(tmp_path):
    part = batches(tmp_path)[0].parts[0]
    for decoder_ids, labels in zip(part.decoder_ids, part.labels):
        length = int((labels >= 0).sum())
        assert labels[0] == 0 and labels[length - 1] == 2
        assert decoder_ids[0] == 2 and decoder_ids[1:length].tolist() == labels[: length - 1].tolist()
        assert (labels[length:] == -100).all() and (decoder_ids[length + 1 :] == 1).all()


def test_held_out_scenes_are_refused(tmp_path):
    made = batches(tmp_path, data=[{"path": f"scenes:count=10,seed={2**31 - 15}", "tasks": ["OD"]}])
    assert len(made.epoch(0)) == 10
    with pytest.raises(ValueError, match="held-out"):
        made.epoch(1)


def test_a_source_outside_its_epochs_gives_nothing(tmp_path):
    made = batches(tmp_path, data=[
        {"path": "scenes:count=4,objects=1-1", "tasks": ["OD"], "epochs": [0, 0]},
        {"path": "scenes:count=6,objects=2-2,seed=100", "tasks": ["OD"], "epochs": [1, 9]},
    ])  # fmt: skip
    assert {key[1] for key in made.epoch(0)} == {0} and {key[1] for key in made.epoch(1)} == {1}


def test_a_target_over_the_limit_is_left_out_and_counted(tmp_path):
    batch = batches(tmp_path, max_target=6)[0]
    assert batch.left_out > 0 and batch.pairs + batch.left_out == 8
