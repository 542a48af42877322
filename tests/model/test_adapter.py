"""An adapter merged by us equals the same adapter in peft, on each of the three ways to name modules."""

import json

import pytest
import torch

from florence2.model import adapter
from florence2.model.adapter import adapter_base
from florence2.model.checkpoint import load_model, save_model
from florence2.model.layouts import key_table
from tests.parity.twins import IMAGE_ID, lively, theirs_of, tiny

LINEAR = ["q_proj", "v_proj", "fc1", "qkv"]
CASES = {  # peft's settings
    "LoRA": dict(r=4, lora_alpha=8, target_modules=LINEAR),
    "rsLoRA": dict(r=4, lora_alpha=8, target_modules=LINEAR, use_rslora=True),
    "DoRA": dict(r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True),
    "DoRA and rsLoRA": dict(r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True, use_rslora=True),
    "ranks and alphas by pattern": dict(
        r=4, lora_alpha=8, target_modules=LINEAR, rank_pattern={"fc1": 2}, alpha_pattern={"decoder.*fc1": 3}
    ),
    "biases": dict(r=4, lora_alpha=8, target_modules=LINEAR, bias="all"),
    "a bias of its own": dict(r=4, lora_alpha=8, target_modules=LINEAR, lora_bias=True),
    "convolutions": dict(r=4, lora_alpha=8, target_modules=["convs.1.conv", "fc2"]),
    "DoRA on convolutions": dict(r=4, lora_alpha=8, target_modules=["convs.1.conv"], use_dora=True),
    "whole modules": dict(r=4, lora_alpha=8, target_modules=LINEAR, modules_to_save=["image_proj_norm"]),
    "the head": dict(r=4, lora_alpha=8, target_modules=["lm_head", "fc2"]),
}


def adapted(module, folder, **settings):
    """`module` inside peft with an adapter of random weights, saved to a folder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(module, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(
                    torch.randn_like(parameter).abs() * 0.1
                    if "magnitude" in name
                    else torch.randn_like(parameter) * 0.1
                )
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_model(lively(tiny()), folder, "transformers")
    return folder


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_merged_equals_peft(base, tmp_path, case):
    with torch.inference_mode(False):
        theirs = adapted(theirs_of(load_model(base)), tmp_path, **CASES[case])
    plain, ours = load_model(base), load_model(base, adapter=tmp_path)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 96, 96, generator=generator)
    prompt = torch.randint(4, IMAGE_ID, (2, 6), generator=generator)
    targets = torch.randint(3, IMAGE_ID, (2, 5), generator=generator)
    places = torch.full((2, ours.config.image_tokens), IMAGE_ID)
    expected = theirs(
        input_ids=torch.cat([places, prompt], 1), pixel_values=pixels, decoder_input_ids=targets
    ).logits  # fmt: skip
    got, before = (m(m.encode_image(pixels), prompt, None, targets) for m in (ours, plain))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - before).abs().max() > 1e-2
    assert ours.config.text.tied_head == (case != "the head")


def test_names_of_our_own_modules(tmp_path):
    plain = lively(tiny())
    save_model(plain, tmp_path / "base")
    names = r".*\.(attention|cross)\.(q|v)|.*\.mlp\.up"
    theirs = adapted(load_model(tmp_path / "base"), tmp_path / "adapter", r=4, lora_alpha=8, target_modules=names)
    ours = load_model(tmp_path / "base", adapter=tmp_path / "adapter")
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=0, atol=1e-5)
    assert not torch.equal(
        ours.language.encoder.layers[0].attention.q.weight, plain.language.encoder.layers[0].attention.q.weight
    )


# ---- the recipe that most fine-tunes of the remote code copy; `linear`, `Conv2d` and `o_proj` name nothing there
RECIPE = dict(
    r=8, lora_alpha=8, lora_dropout=0.05, bias="none", inference_mode=False, task_type="CAUSAL_LM", use_rslora=True,
    init_lora_weights="gaussian",
    target_modules=["q_proj", "o_proj", "k_proj", "v_proj", "linear", "Conv2d", "lm_head", "fc2"],
)  # fmt: skip


class Remote(torch.nn.Module):
    """A model's own layers under the names that the remote code gives them: what peft sees of such a model."""

    def __init__(self, model):
        super().__init__()
        self.language_model = torch.nn.Module()
        text = model.config.text
        head = torch.nn.Linear(text.d_model, text.vocab_size, bias=False)
        head.weight = model.language.embedding.weight
        for key, ours in key_table(model.config, "microsoft").items():
            if ours is None or key.endswith(".weight"):
                is_copy = ours in (None, "language.head.weight")
                leaf = head if "lm_head" in key else model.language.embedding if is_copy else None
                self._put(key, leaf or model.get_submodule(ours.removesuffix(".weight")))

    def _put(self, key, leaf):
        *path, last = key.removesuffix(".weight").split(".")
        place = self
        for name in path:
            if not hasattr(place, name):
                place.add_module(name, torch.nn.Module())
            place = getattr(place, name)
        place.add_module(last, leaf)

    def get_input_embeddings(self):
        return self.language_model.model.shared

    def get_output_embeddings(self):
        return self.language_model.lm_head

    def prepare_inputs_for_generation(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "change, layers",
    [
        ({}, 33),  # q, k and v of 6 attentions, fc2 of 14 layers, and the head
        ({"target_modules": ["convs.2.proj", "qkv"]}, 11),
    ],
)
def test_the_recipe_of_the_remote_code(tmp_path, change, layers):
    model = lively(tiny())
    save_model(model, tmp_path / "base", "microsoft", named_rows=IMAGE_ID)
    table = {key: ours for key, ours in key_table(model.config, "microsoft").items() if ours}
    theirs = adapted(Remote(load_model(tmp_path / "base")), tmp_path / "adapter", **{**RECIPE, **change})
    ours, plain = load_model(tmp_path / "base", adapter=tmp_path / "adapter"), load_model(tmp_path / "base")
    state, before, changed = ours.state_dict(), plain.state_dict(), set()
    for name, layer in theirs.named_modules():
        if hasattr(layer, "lora_A"):
            mine = table[name.removeprefix("base_model.model.") + ".weight"]
            changed.add(mine)
            whole = layer.get_base_layer().weight + layer.get_delta_weight("default")
            torch.testing.assert_close(state[mine], whole, rtol=0, atol=1e-5)
    assert len(changed) == layers
    for name, tensor in before.items():
        assert name in changed or torch.equal(tensor, state[name]), name
    assert ours.config.text.tied_head == ("language.head.weight" not in changed)
    save_model(model, tmp_path / "other", "transformers", named_rows=IMAGE_ID)  # the same base with rows of padding
    for name, tensor in load_model(tmp_path / "other", adapter=tmp_path / "adapter").state_dict().items():
        rows = IMAGE_ID if len(tensor) > IMAGE_ID else None
        assert torch.equal(tensor[:rows], state[name][:rows]), name


def test_an_adapter_of_a_base_with_more_rows(tmp_path):
    for layout in ("microsoft", "transformers"):
        save_model(lively(tiny()), tmp_path / layout, layout, named_rows=IMAGE_ID)
    adapted(theirs_of(load_model(tmp_path / "transformers")), tmp_path / "adapter", **CASES["the head"])
    long, short = (
        load_model(tmp_path / name, adapter=tmp_path / "adapter").state_dict() for name in ("transformers", "microsoft")
    )
    assert len(short["language.head.weight"]) == IMAGE_ID < len(long["language.head.weight"])
    assert all(torch.equal(tensor, long[name][: len(tensor)]) for name, tensor in short.items() if tensor.ndim)


def test_an_adapter_in_a_pickle(base, tmp_path):
    from safetensors.torch import load_file

    adapted(theirs_of(load_model(base)), tmp_path, **CASES["LoRA"])
    first = load_model(base, adapter=tmp_path).state_dict()
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    second = load_model(base, adapter=tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "key, shape, named",
    [
        ("model.language_model.shared.lora_embedding_A", (4, 1216), "tied embedding"),
        ("model.language_model.shared.lora_A.weight", (4, 48), "tied embedding"),
        ("model.language_model.encoder.layers.7.fc1.lora_A.weight", (4, 48), "no such module"),
        ("model.language_model.encoder.layers.1.fc2.lora_A.weight", (4, 96), "lora_A and lora_B"),
    ],
)
def test_refused_keys(base, tmp_path, key, shape, named):
    from safetensors.torch import load_file, save_file

    adapted(theirs_of(load_model(base)), tmp_path, **CASES["LoRA"])
    file = tmp_path / "adapter_model.safetensors"
    save_file({**load_file(file), f"base_model.model.{key}": torch.ones(shape)}, file)
    with pytest.raises(ValueError) as refusal:
        load_model(base, adapter=tmp_path)
    assert (
        named in str(refusal.value) and key.split(".lora")[0] in str(refusal.value) and str(file) in str(refusal.value)
    )


def test_rows_of_new_tokens_whose_ids_are_not_stated_are_refused(base, tmp_path):
    from safetensors.torch import load_file, save_file

    adapted(theirs_of(load_model(base)), tmp_path, **CASES["LoRA"])
    file, key = tmp_path / "adapter_model.safetensors", "model.language_model.shared"
    rows = {f"base_model.model.{key}.token_adapter.trainable_tokens_delta": torch.ones(2, 48)}
    save_file({**load_file(file), **rows}, file)
    with pytest.raises(ValueError, match=f"adapter_config.json: trainable_token_indices: expected 2 ids for {key}"):
        load_model(base, adapter=tmp_path)


def test_the_base_an_adapter_names(base, tmp_path):
    assert adapter_base(base) is None
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/b", "revision": "main"}))
    assert adapter_base(tmp_path) == ("a/b", "main")
    (tmp_path / "config.json").write_text("{}")  # copied along by some trainers; without weights it is no model
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert adapter_base(tmp_path) == (str(tmp_path / "a" / "b"), "main")  # beside the adapter
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="base_model_name_or_path"):
        adapter_base(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert adapter_base(tmp_path) is None


@pytest.mark.parametrize(
    "change, named",
    [
        ({"peft_type": "IA3"}, ["adapter_config.json", "peft_type", "IA3"]),
        ({"init_lora_weights": "pissa"}, ["adapter_config.json", "init_lora_weights"]),
        ({"fan_in_fan_out": True}, ["adapter_config.json", "fan_in_fan_out"]),
        ({"r": 0}, ["adapter_config.json", "r:"]),
        ({"use_dora": True}, ["adapter_model.safetensors", "magnitude"]),
    ],
)
def test_refused_settings(base, tmp_path, change, named):
    adapted(theirs_of(load_model(base)), tmp_path, **CASES["LoRA"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError) as refusal:
        load_model(base, adapter=tmp_path)
    assert all(name in str(refusal.value) for name in named) and "\n" not in str(refusal.value)


def test_an_adapter_of_another_model(base, tmp_path):
    wide = tiny(d_model=96)
    adapted(theirs_of(lively(wide)), tmp_path, **CASES["LoRA"])
    with pytest.raises(ValueError, match="is this its base"):
        load_model(base, adapter=tmp_path)


ENDLESS = ("(a+)+$", "(", ".*.*.*.*x", "x" * 400, r"(.)\\1", "a{1,9}b{1,9}c{1,9}d{1,9}")


@pytest.mark.parametrize(
    "patterns", [5, "x", [1], {"fc1": "x"}, {"fc1": -1}, {"fc1": 10**400}, *({pattern: 1} for pattern in ENDLESS)]
)
def test_patterns_that_are_none_or_never_end_are_refused(tmp_path, patterns):
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": patterns}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="adapter_config.json: alpha_pattern: expected") as refusal:
        adapter._settings(tmp_path / "adapter_config.json")
    assert len(str(refusal.value).splitlines()) == 1 and len(str(refusal.value)) < 500


@pytest.mark.parametrize("pattern", ["fc1", "decoder.*fc1", r"layers\.(0|1)\.fc1", r".*\.(?:q|v)_proj"])
def test_patterns_in_use_are_taken(tmp_path, pattern):
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {pattern: 3}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert adapter._settings(tmp_path / "adapter_config.json")["alpha_pattern"] == {pattern: 3}
