"""Pictures of another size than the checkpoint's: places keep their vectors, the size is saved, what is too large is
refused."""

import numpy as np
import pytest
import torch

import florence2
from florence2.codec.answers import parse_ids
from florence2.model.bart import OFFSET
from florence2.scenes import draw
from florence2.training.config_files import from_mapping
from florence2.training.init import resize, with_image_size
from florence2.training.loop import run
from florence2.training.setup import prepare
from tests.training.tiny import tiny_model, tiny_run


def test_the_size_is_trained_and_saved(tmp_path):
    config = from_mapping(tiny_run(tmp_path, image_size=64, steps=2))
    job = prepare(config)
    (batch,) = job.first(1)
    assert batch.pictures.shape[1:3] == (64, 64) and batch.cells["object"].shape[1:] == (8, 8)
    result = run(config)
    model = florence2.load(result.folder)
    assert model.config.image_size_wh == (64, 64)
    assert model.encode_image(draw(2**31)[0]).features.shape[0] == 8 * 8 + 1
    assert florence2.load(tiny_run(tmp_path)["model"]).config.image_size_wh == (32, 32)


def test_a_run_of_another_size_goes_on_to_the_bit(tmp_path):
    whole = run(from_mapping(tiny_run(tmp_path, image_size=48, steps=4, save_every=2)))
    part = tiny_run(tmp_path, image_size=48, steps=4, save_every=2, out=str(tmp_path / "part"))
    steps = []

    def stop(line):
        steps.append(line["step"])
        if line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(from_mapping(part), stop)
    assert run(from_mapping(part)).weights_sha256 == whole.weights_sha256 and steps == [1, 2, 3]


def test_a_place_keeps_its_vector(tmp_path):
    """Tables that are linear in the place of the cell's middle stay so, but for the outer half cells."""
    model = florence2.load(tiny_model(tmp_path)).model
    old = model.config.map_size_wh[0]
    columns, rows = model.projector.columns.weight, model.projector.rows.weight
    with torch.no_grad():
        columns[:old] = (torch.arange(old)[:, None] + 0.5) / old * torch.arange(columns.shape[1])
        rows[:old] = 1 - (torch.arange(old)[:, None] + 0.5) / old * torch.ones(rows.shape[1])
    before = columns[:old].clone()
    resize(model, (64, 64))
    new = model.config.map_size_wh[0]
    assert (old, new) == (4, 8)
    middles = ((torch.arange(new)[:, None] + 0.5) / new).clamp(0.5 / old, 1 - 0.5 / old)
    torch.testing.assert_close(columns[:new], middles * torch.arange(columns.shape[1]))
    torch.testing.assert_close(rows[:new], 1 - middles * torch.ones(rows.shape[1]))
    resize(model, (32, 32))  # and back: the mean of two neighbours, outer cells aside
    torch.testing.assert_close(columns[1 : old - 1], before[1 : old - 1])


@pytest.mark.parametrize("side", [16, 48, 64])
def test_the_encoder_knows_places_and_prompt_tokens_again(tmp_path, side):
    model = florence2.load(tiny_model(tmp_path)).model
    old_wide = model.config.map_size_wh[0]
    positions = model.language.encoder.embed.positions.weight
    before = positions.detach().clone()
    first = OFFSET + 1
    with torch.no_grad():  # linear in x in one channel, in y in another
        middles = (torch.arange(old_wide) + 0.5) / old_wide
        positions[first : first + old_wide**2, 0] = middles.repeat(old_wide)
        positions[first : first + old_wide**2, 1] = middles.repeat_interleave(old_wide)
    resize(model, (side, side))
    wide = model.config.map_size_wh[0]
    middles = ((torch.arange(wide) + 0.5) / wide).clamp(0.5 / old_wide, 1 - 0.5 / old_wide)
    torch.testing.assert_close(positions[first : first + wide**2, 0], middles.repeat(wide))
    torch.testing.assert_close(positions[first : first + wide**2, 1], middles.repeat_interleave(wide))
    old, new = before[first + old_wide**2 :], positions[first + wide**2 :]
    shared = min(len(old), len(new))
    assert torch.equal(new[:shared], old[:shared]) and torch.equal(positions[:first], before[:first])


def test_nothing_changes_at_the_same_size(tmp_path):
    model = florence2.load(tiny_model(tmp_path)).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resize(model, model.config.image_size_wh)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_the_tables_do_not_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image_size: 72 pixels make a map of 9x9 cells; .* to 8x8"):
        prepare(from_mapping(tiny_run(tmp_path, image_size=72)))
    shape = florence2.load(tiny_model(tmp_path)).config
    assert with_image_size(shape, 64).image_size_wh == (64, 64)
    with pytest.raises(ValueError, match="image_size: expected at least 0"):
        from_mapping(tiny_run(tmp_path, image_size=-1))
    with pytest.raises(ValueError, match="an adapter leaves its base"):
        from_mapping(tiny_run(tmp_path, image_size=64, strategy="lora", dense=0.0))


def test_scenes_drawn_at_a_size_of_their_own_are_brought_to_the_models(tmp_path):
    data = [{"path": "scenes:count=8,objects=1-2,signs=0,size=96x64", "tasks": ["OD"]}]
    job = prepare(from_mapping(tiny_run(tmp_path, data=data, image_size=64)))
    (batch,) = job.first(1)
    assert batch.pictures.shape[1:3] == (64, 64)
    for example in batch.examples:
        pixels, sample = draw(int(example.sample_id.removeprefix("scene-")), objects=(1, 2), signs=0, size=(96, 64))
        parsed, _ = parse_ids(list(example.target_ids[1:-1]), job.tokenizer, job.tasks["<OD>"], (96, 64), example.ask)
        truth = sorted(region.box for region in sample.regions)
        found = sorted(region.box for region in parsed.regions)
        assert np.allclose(found, truth, atol=0.11)
