"""A new model that begins with given weights computes what their own model computes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import load_model, save_model
from florence2.model.florence import Florence
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.given_weights import original_key, take_tower
from florence2.training.init import initialise
from florence2.training.setup import prepare
from tests.training.tiny import WORDS, tiny_config, tiny_run

NANO = dict(d_model=160, encoder_layers=2, decoder_layers=3, encoder_attention_heads=5, decoder_attention_heads=5,
            encoder_ffn_dim=320, decoder_ffn_dim=320)  # fmt: skip


def bart(folder, positions=100, **changes):
    """A random BART of the size of nano with a vocabulary of its own, and its folder."""
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = Tokenizer.train(WORDS * 10, 320)
    torch.manual_seed(1)
    config = BartConfig(vocab_size=tokenizer.vocab_size - 24, max_position_embeddings=positions, **{**NANO, **changes})
    model = BartForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


def run_of(tmp_path, **changes):
    data = [{"path": "scenes:count=16,objects=1,signs=0", "tasks": ["OD"], "pairs": 1}]
    return tiny_run(tmp_path, model="new:nano", data=data, dense=0, steps=1, batch_size=4, **changes)


def test_a_language_model_from_bart_computes_what_bart_does(tmp_path):
    theirs = bart(tmp_path / "bart")
    job = prepare(from_mapping(run_of(tmp_path, init={"language": str(tmp_path / "bart")})))
    ours = job.model.eval().language
    assert job.tokenizer.encode("star house") == Tokenizer.load(tmp_path / "bart").encode("star house")
    x = torch.randn(2, 9, 160)
    ids = torch.tensor([[2, 0, 5, 7], [2, 9, 11, 300]])
    with torch.no_grad():
        memory = ours.encode(x, None)
        expected = theirs.model.encoder(inputs_embeds=x).last_hidden_state
        assert torch.allclose(memory, expected, atol=1e-5)
        logits = theirs(encoder_outputs=(expected,), decoder_input_ids=ids).logits
        found = ours(memory, None, ids)
    rows = theirs.config.vocab_size
    assert torch.allclose(found[..., :rows], logits, atol=1e-4)
    assert found.shape[-1] == job.tokenizer.vocab_size > rows  # the others keep their first weights


@pytest.mark.parametrize("changes, said", [
    ({"d_model": 100}, "expected shape"),
    ({"encoder_layers": 1}, "missing"),
    ({"decoder_layers": 4}, "unexpected"),
    ({"scale_embedding": True}, "scale_embedding: expected False"),
])  # fmt: skip
def test_a_bart_that_does_not_fit_is_refused(tmp_path, changes, said):
    bart(tmp_path / "bart", **changes)
    with pytest.raises(ValueError, match=said):
        train(run_of(tmp_path, init={"language": str(tmp_path / "bart")}))
    assert not (tmp_path / "out").exists()


def test_init_goes_with_a_new_model(tmp_path):
    with pytest.raises(ValueError, match="init: goes with a new model"):
        train({**tiny_run(tmp_path), "init": {"tower": "nano"}})


def test_a_tower_is_taken_from_any_checkpoint_and_trained_on(tmp_path):
    config = run_of(tmp_path, init={"tower": "nano"}, strategy="frozen_vision")
    train(config)
    from florence2.predictor.checkpoints import find_folder

    given, after = load_model(find_folder("nano")).state_dict(), load_model(config["out"]).state_dict()
    tower = [name for name in after if name.startswith("vision_tower.")]
    assert tower and all(torch.equal(after[name], given[name]) for name in tower)
    assert not torch.equal(after["projector.projection.weight"], given["projector.projection.weight"])


def original_tower(state, config, pixels):
    """The original DaViT written out: spatial then channel blocks, its own roles and scale of channel attention."""
    x = pixels
    for s, dim in enumerate(config.dims):
        embed = f"patch_embeds.{s}."
        norm = (state[f"{embed}norm.weight"], state[f"{embed}norm.bias"])
        if s:
            x = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), *norm).permute(0, 3, 1, 2)
        stride, padding = (2, 0) if s else (4, 3)
        x = F.conv2d(x, state[f"{embed}proj.weight"], state[f"{embed}proj.bias"], stride, padding)
        if not s:
            x = F.layer_norm(x.permute(0, 2, 3, 1), (dim,), *norm).permute(0, 3, 1, 2)
        for b in range(config.depths[s]):
            for kind in (0, 1):
                x = original_block(state, f"main_blocks.{s}.{b}.{kind}.", x, kind, config, s)
    return x


def original_block(state, name, x, kind, config, s):
    def linear(which, value):
        return F.linear(value, state[f"{name}{which}.weight"], state[f"{name}{which}.bias"])

    def place(which, value):
        weight, bias = state[f"{name}cpe.{which}.proj.weight"], state[f"{name}cpe.{which}.proj.bias"]
        return value + F.conv2d(value, weight, bias, padding=1, groups=len(weight))

    def normed(which, value):
        value = value.permute(0, 2, 3, 1)
        return F.layer_norm(value, value.shape[-1:], state[f"{name}{which}.weight"], state[f"{name}{which}.bias"])

    x = place(0, x)
    B, C, H, W = x.shape
    y = normed("norm1", x)
    heads = config.groups[s]
    if kind == 0:
        S = config.window
        y = y.view(B, H // S, S, W // S, S, C).transpose(2, 3).reshape(-1, S * S, C)
        q, k, v = linear("attn.qkv", y).view(len(y), S * S, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
        y = ((q * (C // heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = linear("attn.proj", y.transpose(1, 2).reshape(-1, S * S, C))
        y = y.view(B, H // S, W // S, S, S, C).transpose(2, 3).reshape(B, H, W, C)
    else:
        q, k, v = linear("attn.qkv", y.reshape(B, H * W, C)).view(B, H * W, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
        weights = ((k * (C // heads) ** -0.5).transpose(-2, -1) @ v).softmax(-1)
        y = (weights @ q.transpose(-2, -1)).transpose(-2, -1)
        y = linear("attn.proj", y.transpose(1, 2).reshape(B, H, W, C))
    x = place(1, x + y.permute(0, 3, 1, 2))
    y = linear("mlp.fc2", F.gelu(linear("mlp.fc1", normed("norm2", x))))
    return x + y.permute(0, 3, 1, 2)


def test_a_tower_of_the_original_davit_computes_what_it_did(tmp_path):
    """Exact for the model's own picture size: 2x2 merging within a 3x3 kernel, roles and scale of channel attention."""
    torch.manual_seed(2)
    model = Florence(tiny_config(1100))
    initialise(model, 20)
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("vision_tower."):
            shape = (*tensor.shape[:2], 2, 2) if name.endswith("stages.1.embed.conv.weight") else tensor.shape
            state[original_key(name)] = 0.3 * torch.randn(shape) / max(1, tensor[0].numel()) ** 0.5
    (tmp_path / "davit").mkdir()
    save_file({**state, "head.weight": torch.zeros(3, 32)}, tmp_path / "davit" / "model.safetensors")
    take_tower(model, str(tmp_path / "davit"))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = model.eval().vision_tower(pixels).permute(0, 3, 1, 2)
        expected = original_tower(state, model.config.vision, pixels)
    assert torch.allclose(found, expected, atol=1e-5) and expected.std() > 0.01
    del state["main_blocks.0.0.1.attn.proj.bias"]
    save_file(state, tmp_path / "davit" / "model.safetensors")
    with pytest.raises(ValueError, match="main_blocks.0.0.1.attn.proj.bias: missing"):
        take_tower(model, str(tmp_path / "davit"))


def test_a_tower_of_other_sizes_is_refused(tmp_path):
    config = tiny_config(1100)
    save_model(Florence(dataclasses.replace(config)), tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"vision_tower\.stages\.0.*expected shape"):
        take_tower(load_model("florence2/weights/nano"), str(tmp_path / "tiny"))
