"""New tokens: old ids and rows stay, new rows learn, and every reader of the saved model gives the same logits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import florence2
from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import load_model
from florence2.predictor.convert import convert
from florence2.training import train
from florence2.training.vocabulary import grow
from tests.training.tiny import WORDS, tiny_config, tiny_model, tiny_run

NEW = ["<invoice>", "naïve star"]


def run_of(tmp_path, layout="florence2", **changes):
    if not (tmp_path / "start").exists():
        tiny_model(tmp_path / "start")
    start = tmp_path / layout
    if not start.exists():
        convert(tmp_path / "start", start, layout)
    florence2.scenes.draw(0)[0]
    picture = tmp_path / "p.png"
    picture.write_bytes(florence2.pixels.encode(florence2.scenes.draw(3)[0]))
    rows = [(str(picture), "<invoice> what?", "a <invoice> of a naïve star"), (str(picture), "and?", "star <invoice>")]
    data = [{"samples": rows, "tasks": ["PROMPT"]}]
    return tiny_run(
        tmp_path, model=str(start), new_tokens=NEW, data=data, dense=0, steps=3, batch_size=2, lr=1e-2, **changes
    )


def lora(**more):
    return {"strategy": "lora", "lora": {"rank": 2, "dropout": 0.0, "targets": ["q_proj", "fc2"], **more}}


def ours(folder, prompt_ids, decoder_ids, pixels):
    model = florence2.load(folder).model
    with torch.no_grad():
        return model(model.encode_image(pixels), prompt_ids, None, decoder_ids)


def theirs(model, folder, prompt_ids, decoder_ids, pixels):
    config = json.loads((Path(folder) / "config.json").read_text())
    ids = torch.cat([torch.full((1, 17), config["image_token_id"]), prompt_ids], 1)
    with torch.no_grad():
        return model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, decoder_input_ids=decoder_ids
        ).logits


def question(tokenizer):
    prompt = torch.tensor([tokenizer.prompt_ids("<invoice> what?")])
    decoder = torch.tensor([[2, 0, *tokenizer.encode("a <invoice> of a naïve star", specials=False)]])
    return prompt, decoder, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_old_ids_stay_and_new_tokens_are_words(tmp_path):
    before = Tokenizer.train(WORDS * 10, 320)
    after = before.with_tokens(NEW)
    assert after.vocab_size == before.vocab_size + 2 and after.loc0 == before.loc0
    assert all(after.token_of(index) == before.token_of(index) for index in range(before.vocab_size))
    text = "a <invoice> of <loc_5>, naïve star"
    ids = after.encode(text, specials=False)
    assert ids.count(before.vocab_size) == 1 and ids[-1] == before.vocab_size + 1
    assert after.loc0 + 5 not in ids and after.decode(ids) == text
    assert after.encode("no such word") == before.encode("no such word")
    assert not after.special_ids & {before.vocab_size, before.vocab_size + 1}
    after.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode(text, specials=False) == ids and again.special_ids == after.special_ids
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert fast("a <invoice> star", add_special_tokens=False).input_ids == after.encode("a <invoice> star")


@pytest.mark.parametrize("tokens, said", [
    (["<loc_3>"], "'<loc_3>': expected a token that the vocabulary"),
    (["<a>", "<a>"], "once"),
    ([" x"], "without white space"),
    ([""], "expected a token"),
])  # fmt: skip
def test_tokens_that_cannot_be_added_are_refused(tokens, said):
    with pytest.raises(ValueError, match=said):
        Tokenizer.train(WORDS * 10, 320).with_tokens(tokens)


@pytest.mark.parametrize("spare, tied", [(0, True), (0, False), (9, True)])
def test_rows_are_grown_or_taken_from_the_padding(tmp_path, spare, tied):
    import dataclasses

    from florence2.model.florence import Florence

    before = Tokenizer.train(WORDS * 10, 320)
    config = tiny_config(before.vocab_size + spare)
    model = Florence(dataclasses.replace(config, text=dataclasses.replace(config.text, tied_head=tied)))
    old = {name: t.clone() for name, t in model.state_dict().items() if "embedding" in name or "head" in name}
    after = before.with_tokens(NEW)
    grow(model, after, NEW, seed=0)
    assert model.config.text.vocab_size == before.vocab_size + max(2, spare) and len(old) == (1 if tied else 2)
    for name, table in old.items():
        new = model.state_dict()[name]
        assert len(new) == model.config.text.vocab_size
        assert torch.equal(new[: before.vocab_size], table[: before.vocab_size])
        pieces = before.encode("invoice", specials=False)
        mean = table[pieces].mean(0)
        assert (new[before.vocab_size] - mean).std() < 0.04 * table.std()
        assert not torch.equal(new[before.vocab_size], new[before.vocab_size + 1])


@pytest.mark.parametrize("layout", ["microsoft", "transformers"])
def test_a_full_model_opens_everywhere_with_equal_logits(tmp_path, layout):
    from transformers import Florence2ForConditionalGeneration

    config = run_of(tmp_path, layout)
    train(config)
    convert(config["out"], tmp_path / "native", "transformers")
    convert(config["out"], tmp_path / "remote", "microsoft")
    loaded = florence2.load(config["out"])
    prompt, decoder, pixels = question(loaded.tokenizer)
    assert decoder.max() >= loaded.tokenizer.vocab_size - 2
    expected = ours(config["out"], prompt, decoder, pixels)
    rows = loaded.tokenizer.vocab_size
    remote = ours(tmp_path / "remote", prompt, decoder, pixels)
    assert torch.equal(remote[..., :rows], expected[..., :rows])
    bias = load_file(tmp_path / "remote" / "model.safetensors")["language_model.final_logits_bias"]
    assert bias.shape == (1, rows) and not bias.any()
    native = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "native", dtype=torch.float32).eval()
    found = theirs(native, tmp_path / "native", prompt, decoder, pixels)
    assert torch.allclose(found[..., :rows], expected[..., :rows], atol=1e-4)


@pytest.mark.parametrize("layout", ["florence2", "microsoft", "transformers"])
def test_an_adapter_holds_the_new_rows_and_changes_no_old_one(tmp_path, layout):
    config = {**run_of(tmp_path, layout), **lora()}
    result = train(config)
    assert result.loss_after < result.loss_before
    out = Path(config["out"])
    base, after = load_model(out / "base").state_dict(), florence2.load(out).model.state_dict()
    first = florence2.load(out).tokenizer.vocab_size - 2
    table, trained = base["language.embedding.weight"], after["language.embedding.weight"]
    assert (
        torch.equal(trained[:first], table[:first]) and (trained[first : first + 2] != table[first : first + 2]).all()
    )
    start = load_model(config["model"]).state_dict()["language.embedding.weight"]
    assert torch.equal(start[:first], table[:first])
    changed = {name for name in base if not torch.equal(base[name], after[name])}
    assert all(n == "language.embedding.weight" or n.endswith((".q.weight", "mlp.down.weight")) for n in changed)


def test_peft_puts_the_adapter_and_its_rows_on_transformers_own_model(tmp_path):
    from peft import PeftModel
    from transformers import Florence2ForConditionalGeneration

    config = {**run_of(tmp_path, "transformers"), **lora()}
    train(config)
    base = Path(config["out"]) / "base"
    native = Florence2ForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(native, config["out"]).eval()
    loaded = florence2.load(config["out"])
    prompt, decoder, pixels = question(loaded.tokenizer)
    rows = loaded.tokenizer.vocab_size
    expected = ours(config["out"], prompt, decoder, pixels)[..., :rows]
    assert torch.allclose(theirs(adapted, base, prompt, decoder, pixels)[..., :rows], expected, atol=1e-4)
    merged = adapted.merge_and_unload()
    assert torch.allclose(theirs(merged, base, prompt, decoder, pixels)[..., :rows], expected, atol=1e-4)


def test_the_decoder_alone_trains_the_new_rows_and_no_old_one(tmp_path):
    config = run_of(tmp_path, strategy="decoder", weight_decay=0.1)
    train(config)
    before, after = (load_model(folder).state_dict() for folder in (config["model"], config["out"]))
    rows = len(before["language.embedding.weight"])
    changed = {n for n in before if n != "language.embedding.weight" and not torch.equal(before[n], after[n])}
    assert changed and all(name.startswith("language.decoder.layers.") for name in changed)
    assert torch.equal(before["language.embedding.weight"], after["language.embedding.weight"][:rows])


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, strategy):
    more = lora() if strategy == "lora" else {}
    whole = train({**run_of(tmp_path, **more), "schedule": "constant", "steps": 4})
    parted = {**run_of(tmp_path, **more), "schedule": "constant", "out": str(tmp_path / "parted")}
    train({**parted, "steps": 2})
    assert train({**parted, "steps": 4}).weights_sha256 == whole.weights_sha256


def test_the_model_answers_with_a_new_token(tmp_path):
    config = {**run_of(tmp_path), "steps": 80, "lr": 5e-3}
    train(config)
    model = florence2.load(config["out"])
    picture = florence2.scenes.draw(3)[0]
    answer = model.predict(picture, prompt="<invoice> what?", max_new_tokens=12)
    assert answer.texts[0].text == "a <invoice> of a naïve star" and model.tokenizer.vocab_size - 2 in answer.token_ids
