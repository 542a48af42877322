"""A conversion loses nothing, and what transformers opens of it gives the same logits."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from florence2.cli import main
from florence2.codec.tokenizer import IMAGE_TOKEN, Tokenizer
from florence2.model.checkpoint import open_checkpoint, save_model
from florence2.predictor import load
from florence2.predictor.convert import convert
from tests.engine.test_kill import Counted, killed, spread

LAYOUTS = ("florence2", "microsoft", "transformers")


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    """The same model in each layout."""
    root = tmp_path_factory.mktemp("converted")
    for layout in LAYOUTS:
        convert(folder, root / layout, layout)
    return root


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_there_and_back_is_bit_equal(converted, tmp_path, first, second, capsys):
    assert main(["convert", str(converted / first), str(tmp_path / "there"), "--to", second, "--json"]) == 0
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "back"), "--to", first]) == 0
    start, end = (load_file(place / "model.safetensors") for place in (converted / first, tmp_path / "back"))
    assert start.keys() == end.keys()
    named = Tokenizer.load(converted / first).vocab_size
    for key, tensor in start.items():
        rows = named if len(tensor) >= named else None  # beyond them is padding
        assert torch.equal(tensor[:rows], end[key][:rows]), key
    done = json.loads(capsys.readouterr().out.splitlines()[0])
    assert done["layout"] == second and done["tensors"] > 100
    if second != "transformers" or first == "microsoft":  # ours keeps the placeholder that transformers' brought
        for name in ("tokenizer.json", "config.json"):
            files = (place / name for place in (converted / first, tmp_path / "back"))
            assert len({file.read_text() for file in files}) == 1


def test_answers_are_the_same_in_every_layout(converted, pictures):
    asks = ["<OD>", "<CAPTION>"]
    ids = [[a.token_ids for a in load(converted / layout).predict(pictures[0], asks)] for layout in LAYOUTS]
    assert ids[0] == ids[1] == ids[2]


def test_placeholder_only_where_the_layout_has_one(converted):
    rows = {layout: open_checkpoint(converted / layout).config.text.vocab_size for layout in LAYOUTS}
    named = Tokenizer.load(converted / "florence2").vocab_size
    assert rows == {"florence2": named, "microsoft": named, "transformers": -(-(named + 1) // 64) * 64}
    there = Tokenizer.load(converted / "transformers")
    assert there.id_of(IMAGE_TOKEN) == named == open_checkpoint(converted / "transformers").config.image_id


@torch.inference_mode()
def test_transformers_opens_our_export(converted, pictures):
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    ours = load(converted / "transformers")
    theirs = Florence2ForConditionalGeneration.from_pretrained(converted / "transformers").eval()
    processor = AutoProcessor.from_pretrained(converted / "transformers")
    inputs = processor(text="<OD>", images=Image.fromarray(pictures[0]), return_tensors="pt")
    prompt = ours.tokenizer.prompt_ids("Locate the objects with category name in the image.")
    assert inputs["input_ids"][0, ours.config.image_tokens :].tolist() == prompt
    targets = torch.tensor([[2, 0, 7, 300, 400, 500, 600]])
    features = ours.encode_image(pictures[0]).features[None]
    got = ours.model(features, torch.tensor([prompt]), None, targets)
    torch.testing.assert_close(got, theirs(**inputs, decoder_input_ids=targets).logits, rtol=0, atol=1e-4)
    answer = ours.predict(pictures[0], "<OD>", official=True, max_new_tokens=20)
    expected = theirs.generate(**inputs, max_new_tokens=20)[0]
    assert list(answer.token_ids) == expected.tolist()
    parsed = processor.post_process_generation(processor.decode(expected), task="<OD>", image_size=(60, 40))
    assert set(parsed) == {"<OD>"}


def test_an_adapter_alone_finds_its_base(folder, converted, tmp_path, pictures):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        load(folder).model, LoraConfig(r=2, target_modules=r".*\.mlp\.up", init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(tmp_path)
    alone, given = load(tmp_path), load(converted / "microsoft", adapter=tmp_path)
    merged = adapted.merge_and_unload().language.encoder.layers[0].mlp.up.weight
    for model in (alone, given):
        torch.testing.assert_close(model.model.language.encoder.layers[0].mlp.up.weight, merged, rtol=0, atol=1e-5)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    moved = {**settings, "base_model_name_or_path": "/content/drive/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(moved))
    with pytest.raises(ValueError, match="adapter_config.json: base_model_name_or_path: /content.*give the base"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    convert(tmp_path, tmp_path / "whole", "florence2")
    again = load(tmp_path / "whole").predict(pictures[0], "<OD>")
    assert again.token_ids == alone.predict(pictures[0], "<OD>").token_ids


def test_save_keeps_the_type_of_the_file_unless_something_changed(folder, tmp_path):
    save_model(load(folder).model, tmp_path / "half", dtype="float16")
    Tokenizer.load(folder).save(tmp_path / "half")
    model = load(tmp_path / "half")
    model.save(tmp_path / "kept")
    assert open_checkpoint(tmp_path / "kept").dtype == torch.float16
    with torch.no_grad():
        model.model.projector.norm.weight += 1e-6
    model.save(tmp_path / "changed")
    assert open_checkpoint(tmp_path / "changed").dtype == torch.float32


def test_weights_of_mixed_types_lose_nothing(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    save_file({k: t.half() if t.ndim > 1 else t for k, t in state.items()}, folder_of(folder, tmp_path))
    first = convert(tmp_path / "mixed", tmp_path / "there", "microsoft")
    assert first.dtype == "float32"
    theirs = load(tmp_path / "there").model.state_dict()
    for name, tensor in load(tmp_path / "mixed").model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def folder_of(folder, tmp_path):
    """A copy called mixed, and where its weights go."""
    return shutil.copytree(folder, tmp_path / "mixed") / "model.safetensors"


def test_a_folder_with_files_is_left_alone(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["convert", str(folder), str(tmp_path), "--to", "microsoft"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_vision_features_are_the_stages_of_transformers(converted, pictures):
    from transformers import Florence2ForConditionalGeneration

    ours = load(converted / "transformers")
    theirs = Florence2ForConditionalGeneration.from_pretrained(converted / "transformers").eval().model.vision_tower
    maps = ours.vision_features(pictures[0])
    from florence2.model.image import preprocess

    x = torch.from_numpy(preprocess(np.asarray(pictures[0]), ours.config))[None]
    with torch.no_grad():
        for number, (conv, blocks) in enumerate(zip(theirs.convs, theirs.blocks)):
            x = conv(x)
            for block in blocks:
                x = block(x)
            torch.testing.assert_close(maps[number], x, rtol=0, atol=1e-4)
    assert [map.shape[-1] for map in maps] == [16, 8, 4, 2]
    sum(map.square().mean() for map in maps).backward()
    assert all(p.grad is not None for p in ours.model.vision_tower.parameters())


@pytest.mark.parametrize("frozen", [0, 2])
def test_gradients_through_the_stages_are_those_of_transformers(converted, frozen):
    """With stages frozen, those behind them still get the same gradients."""
    from transformers import Florence2ForConditionalGeneration

    ours = load(converted / "transformers").model.vision_tower
    theirs = Florence2ForConditionalGeneration.from_pretrained(converted / "transformers").eval().model.vision_tower
    ours.freeze(frozen)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mine, own, other = ours.maps(x), [], x
    for conv, blocks in zip(theirs.convs, theirs.blocks):
        other = conv(other)
        for block in blocks:
            other = block(other)
        own.append(other)
    for maps in (mine, own):
        sum((n + 1) * map.pow(3).mean() for n, map in enumerate(maps) if map.requires_grad).backward()
    for stage, (conv, blocks) in enumerate(zip(theirs.convs, theirs.blocks)):
        grads = [p.grad for p in ours.stages[stage].parameters()]
        if stage < frozen:
            assert all(grad is None for grad in grads) and not mine[stage].requires_grad
        else:
            expected = [p.grad for p in (*conv.parameters(), *blocks.parameters())]
            assert len(grads) == len(expected) and max(g.norm() for g in grads) > 0
            mass = [sorted(float(g.norm()) for g in side) for side in (grads, expected)]
            assert mass[0] == pytest.approx(mass[1], rel=1e-3, abs=1e-7)


def converted_files(folder):
    """Names -> bytes of a checkpoint, and its tensors."""
    tensors = load_file(folder / "model.safetensors")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".safetensors"}, tensors


def same_files(one, other):
    (files, tensors), (others, weights) = converted_files(one), converted_files(other)
    equal = all(torch.equal(tensors[name], weights[name]) for name in weights)
    return files == others and tensors.keys() == weights.keys() and equal


@pytest.mark.parametrize("point", range(12))
def test_a_conversion_killed_at_any_step_goes_on_to_the_same_files(folder, converted, tmp_path, point):
    counted = Counted()
    with pytest.MonkeyPatch.context() as patch:
        counted.install(patch)
        convert(folder, tmp_path / "counted", "microsoft")
    out = tmp_path / "out"
    assert killed(lambda: convert(folder, out, "microsoft"), spread(counted.count, 12)[point])
    if out.exists() and any(out.glob(".converting-*")):
        with pytest.raises(ValueError, match="interrupted conversion of another kind"):
            convert(folder, out, "florence2")
    if point < 11:  # at the last step it had ended
        convert(folder, out, "microsoft")
    assert same_files(out, converted / "microsoft") and not list(out.glob(".*"))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_a_conversion_killed_at_any_moment_goes_on_to_the_same_files(folder, converted, tmp_path, share):
    begun = time.monotonic()
    convert(folder, tmp_path / "timed", "transformers")
    took = time.monotonic() - begun
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        try:
            convert(folder, out, "transformers")
        finally:
            os._exit(0)
    time.sleep(share * took)
    os.kill(child, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):  # else it was faster this time
        if not (out / "config.json").exists() or list(out.glob(".*")):
            convert(folder, out, "transformers")
    assert same_files(out, converted / "transformers") and not list(out.glob(".*"))


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json"])
def test_a_token_with_an_absurd_id_is_refused(folder, tmp_path, file):
    (tmp_path / "there").mkdir()
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "config.json", "model.safetensors"):
        (tmp_path / "there" / name).write_bytes((folder / name).read_bytes())
    data = json.loads((folder / file).read_text())
    vocabulary = data["model"]["vocab"] if file == "tokenizer.json" else data
    vocabulary["qqqq"] = 4_000_000_000
    (tmp_path / "there" / file).write_text(json.dumps(data))
    if file == "vocab.json":
        (tmp_path / "there" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="qqqq.*expected an id below 1,048,576, got 4,000,000,000"):
        load(tmp_path / "there")
