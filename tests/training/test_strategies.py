"""Which parameters a run changes: exactly those of its strategy; adapters that peft and `load` read alike."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import florence2
from florence2.cli import main
from florence2.model.checkpoint import load_model, save_model
from florence2.predictor import checkpoints
from florence2.predictor.convert import convert
from florence2.training import optim, train
from florence2.training.config import LoraConfig
from florence2.training.config_files import from_mapping
from florence2.training.dry_run import dry_run
from florence2.training.lora import put_in, targets_of
from florence2.training.setup import prepare
from florence2.training.trainer import Trainer
from tests.training.tiny import tiny_model, tiny_run

ADAPTER = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj", "fc2", "qkv"]}


def weights(folder):
    return florence2.load(folder).model.state_dict()


def changed(config):
    before, after = weights(config["model"]), weights(config["out"])
    return {name for name in before if not torch.equal(before[name], after[name])}


def lora_run(tmp_path, layout="florence2", **lora):
    model = tmp_path / "start"
    if not model.exists():
        tiny_model(model)
    start = tmp_path / layout
    if not start.exists():
        convert(model, start, layout)
    return tiny_run(tmp_path, model=str(start), strategy="lora", lora={**ADAPTER, **lora}, dense=0, steps=3, lr=1e-2)


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_frozen_stages_stay_as_they_are(tmp_path, stages):
    config = tiny_run(tmp_path, freeze_stages=stages, dense=0, steps=2, weight_decay=0.1, drop_path=0.5)
    train(config)
    every = set(weights(config["model"])) - {"projector.frames"}
    meant = {n for n in every if not any(n.startswith(f"vision_tower.stages.{s}.") for s in range(stages))}
    assert {n for n in changed(config) ^ meant if not n.endswith(".k.bias")} == set()


def test_a_stage_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the tower has 2 stages, got 3"):
        train(tiny_run(tmp_path, freeze_stages=3))


@pytest.mark.parametrize("more", [{}, {"dora": True}, {"rslora": True}], ids=["lora", "dora", "rslora"])
def test_an_adapter_changes_exactly_its_targets(tmp_path, more):
    config = lora_run(tmp_path, **more)
    train(config)
    ours = ("attention.q", "cross.q", "attention.v", "cross.v", "mlp.down", "attention.qkv")
    meant = {n for n in weights(config["model"]) if any(n.endswith(f".{end}.weight") for end in ours)}
    assert len(meant) > 8
    assert changed(config) == {n for n in meant if n.startswith("language") or "qkv" in n or "mlp.down" in n}


@pytest.mark.parametrize("layout", ["florence2", "microsoft", "transformers"])
@pytest.mark.parametrize("dora", [False, True])
def test_the_adapter_is_in_the_layout_it_started_from(tmp_path, layout, dora):
    config = lora_run(tmp_path, layout, dora=dora)
    result = train(config)
    out = Path(config["out"])
    assert result.loss_after < result.loss_before
    facts = json.loads((out / "adapter_config.json").read_text())
    assert facts["base_model_name_or_path"] == str(Path(config["model"]).resolve()) and facts["use_dora"] is dora
    keys = load_file(out / "adapter_model.safetensors")
    spelling = {
        "florence2": "base_model.model.language.decoder.layers.0.cross.q.lora_A.weight",
        "microsoft": "base_model.model.language_model.model.decoder.layers.0.encoder_attn.q_proj.lora_A.weight",
        "transformers": "base_model.model.model.language_model.decoder.layers.0.encoder_attn.q_proj.lora_A.weight",
    }[layout]
    assert spelling in keys and not (out / "model.safetensors").exists()
    assert florence2.load(out).predict(torch.zeros(32, 32, 3).byte().numpy(), "<OD>", max_new_tokens=3).size_wh


def test_peft_puts_the_adapter_on_that_very_model_and_merging_equals_it(tmp_path):
    """peft on our plain module, and on transformers' own class of the same checkpoint: equal to `load(OUT)`."""
    from peft import PeftModel

    config = lora_run(tmp_path, "transformers")
    train(config)
    from transformers import Florence2ForConditionalGeneration

    base = Florence2ForConditionalGeneration.from_pretrained(config["model"], dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, config["out"]).merge_and_unload().eval()
    ours = florence2.load(config["out"]).model
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.model.get_image_features(pixels)
        expected = expected.pooler_output if hasattr(expected, "pooler_output") else expected
        assert torch.allclose(ours.encode_image(pixels), expected.view(1, -1, 32), atol=1e-5)
    for name, tensor in theirs.state_dict().items():
        if name.endswith("decoder.layers.0.encoder_attn.q_proj.weight"):
            assert torch.allclose(tensor, ours.language.decoder.layers[0].cross.q.weight, atol=1e-6)
            break
    else:
        raise AssertionError("no such key")


def test_a_small_change_survives_merging_into_a_float16_base(tmp_path):
    """Published checkpoints are float16, whose steps are wider than a short run's change."""
    tiny_model(tmp_path / "start")
    save_model(load_model(tmp_path / "start"), tmp_path / "start", dtype="float16")
    config = lora_run(tmp_path) | {"lr": 1e-5}
    config["model"] = str(tmp_path / "start")
    train(config)
    trained = checkpoints.find(config["out"]).model(torch.float32).state_dict()
    found = convert(config["model"], tmp_path / "merged", "transformers", adapter=config["out"])
    merged = checkpoints.find(tmp_path / "merged").model(torch.float32).state_dict()
    assert found.dtype == "float32" and changed(config)
    assert all(torch.equal(tensor, merged[name][: len(tensor)]) for name, tensor in trained.items() if tensor.ndim)
    plain = convert(config["model"], tmp_path / "plain", "transformers")
    assert plain.dtype == "float16"


def test_transformers_reads_the_adapter_s_folder(tmp_path):
    """By load_adapter on its base, and by from_pretrained of the folder alone: the logits of our merged model."""
    transformers = pytest.importorskip("transformers")
    config = lora_run(tmp_path, "transformers", targets=["q_proj", "v_proj", "fc2"])
    train(config)
    kind = transformers.Florence2ForConditionalGeneration
    base, added = kind.from_pretrained(config["model"]).eval(), kind.from_pretrained(config["model"]).eval()
    added.load_adapter(config["out"])
    ours = florence2.load(config["out"]).model
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompt, decoder = torch.tensor([[0, 50, 60, 2]]), torch.tensor([[2, 0, 40, 41]])
    count = ours.config.map_size_wh[0] * ours.config.map_size_wh[1] + 1
    ids = torch.cat([torch.full((1, count), base.config.image_token_id), prompt], 1)
    given = {"input_ids": ids, "pixel_values": pixels, "decoder_input_ids": decoder, "attention_mask": ids * 0 + 1}
    with torch.no_grad():
        wanted = ours(ours.encode_image(pixels), prompt, None, decoder)
        rows = wanted.shape[-1]
        for model in (added, kind.from_pretrained(config["out"]).eval()):
            assert torch.allclose(model(**given).logits[..., :rows], wanted, atol=1e-5)
        assert not torch.allclose(base(**given).logits[..., :rows], wanted, atol=1e-4)


def test_the_adapter_at_work_equals_the_merged_one(tmp_path):
    config = lora_run(tmp_path, dora=True, rslora=True)
    train(config)
    job = prepare(from_mapping(config))
    trainer = Trainer(job)
    progress = trainer.resume(Path(config["out"]) / "checkpoints" / "step-00000003")
    assert progress.step == 3
    found = checkpoints.open_parts(checkpoints.find(config["out"]), "float32").model
    (batch,) = job.first(1)
    features = job.model.eval().encode_image(torch.zeros(1, 3, 32, 32))
    assert torch.allclose(features, found.encode_image(torch.zeros(1, 3, 32, 32)), atol=1e-5)
    assert batch.pairs


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_converted_for_another_layout(tmp_path, dora):
    from peft import PeftModel

    config = lora_run(tmp_path, "microsoft", dora=dora)
    train(config)
    assert main(["convert", config["out"], str(tmp_path / "other"), "--to", "transformers"]) == 0
    keys = load_file(tmp_path / "other" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.model.") for key in keys)
    own, other = weights(config["out"]), weights(tmp_path / "other")
    assert all(torch.equal(own[name], tensor) for name, tensor in other.items())
    convert(config["model"], tmp_path / "native", "transformers")
    from transformers import Florence2ForConditionalGeneration

    base = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "native", dtype=torch.float32)
    state = PeftModel.from_pretrained(base, tmp_path / "other").merge_and_unload().state_dict()
    (key,) = (name for name in state if name.endswith("decoder.layers.0.encoder_attn.q_proj.weight"))
    assert torch.allclose(state[key], own["language.decoder.layers.0.cross.q.weight"], atol=1e-6)


@pytest.mark.parametrize("target, said", [
    ("lm_head", "the tied head cannot be adapted"),
    ("query", "'query' names no linear layer; expected ends of names such as"),
    ("position1", "names no linear layer"),
])  # fmt: skip
def test_a_target_that_matches_nothing_is_refused(tmp_path, target, said):
    with pytest.raises(ValueError, match=said):
        train(lora_run(tmp_path, targets=["q_proj", target]))
    assert not (tmp_path / "out").exists()


def test_targets_may_be_spelled_as_ours_or_as_any_layouts(tmp_path):
    model = load_model(tiny_model(tmp_path / "m"))
    assert targets_of(model, ["cross.q"], "microsoft") == targets_of(model, ["encoder_attn.q_proj"], "florence2")
    assert targets_of(model, ["projection"], "transformers") == ["projector.projection"]
    with pytest.raises(ValueError, match="names no linear layer"):
        targets_of(model, ["projection"], "microsoft")  # a bare matrix there
    put_in(model, LoraConfig(targets=["out_proj"]), "florence2")
    assert all(".lora_" in name for name in optim.trainable(model)) and optim.trainable(model)


def test_an_adapter_is_trained_further_from_its_own_folder(tmp_path):
    config = lora_run(tmp_path)
    train(config)
    after = weights(config["out"])
    more = {**config, "model": config["out"], "out": str(tmp_path / "full"), "strategy": "full"}
    more.pop("lora")
    train({**more, "lr": 0})
    assert all(torch.equal(after[n], t) for n, t in weights(more["out"]).items())
    again = {**config, "model": config["out"], "out": str(tmp_path / "second")}
    train({**again, "lr": 0})
    found = weights(again["out"])
    assert all(torch.allclose(after[n], t, atol=1e-6) for n, t in found.items())
    assert (tmp_path / "second" / "base" / "model.safetensors").is_file()  # the first adapter, merged


def test_a_resumed_adapter_run_equals_the_uninterrupted_one(tmp_path):
    config = lora_run(tmp_path, dropout=0.1)
    whole = train({**config, "steps": 4, "schedule": "constant"})
    parted = {**config, "schedule": "constant", "out": str(tmp_path / "parted")}
    train({**parted, "steps": 2})
    assert train({**parted, "steps": 4}).weights_sha256 == whole.weights_sha256


def test_groups_have_rates_of_their_own(tmp_path):
    groups = [{"match": "^vision_tower", "lr": 0}, {"match": "embedding", "lr": 1e-3}]
    config = tiny_run(tmp_path, dense=0, steps=2, groups=groups)
    train(config)
    moved = changed(config)
    assert not any(n.startswith("vision_tower") for n in moved) and "language.embedding.weight" in moved
    with pytest.raises(ValueError, match="'nothing' is in no trained parameter's name"):
        train({**config, "groups": [{"match": "nothing", "lr": 1}], "out": str(tmp_path / "x")})


def test_dropout_is_the_checkpoints_unless_named(tmp_path):
    def rate(**more):
        config = {**tiny_run(tmp_path), **more}
        return prepare(from_mapping(config)).model.language.decoder.layers[0].dropout

    without = {key: value for key, value in tiny_run(tmp_path).items() if key != "dropout"}
    assert prepare(from_mapping(without)).model.language.decoder.layers[0].dropout == 0.1
    assert rate(dropout=0.3) == 0.3 and rate(dropout=0) == 0


def test_betas_and_eps_reach_the_optimiser(tmp_path):
    job = prepare(from_mapping(tiny_run(tmp_path, optimizer={"betas": [0.8, 0.9], "eps": "1e-6"})))
    group = Trainer(job).optimiser.param_groups[0]
    assert group["betas"] == (0.8, 0.9) and group["eps"] == 1e-6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_layers_changes_no_number(tmp_path, precision):
    plain = train(tiny_run(tmp_path, steps=3, precision=precision))
    config = tiny_run(tmp_path, steps=3, precision=precision, gradient_checkpointing=True, out=str(tmp_path / "less"))
    assert train(config).loss_after == pytest.approx(plain.loss_after, rel=1e-5 if precision == "fp32" else 1e-3)


def test_the_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    import yaml

    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(lora_run(tmp_path)))
    assert main(["train", "--config", str(file), "--dry-run", "--draw", str(tmp_path / "drawn")]) == 0
    said = capsys.readouterr().out
    assert "strategy   lora" in said and "target  " in said and "ids     0 " in said and "GB" in said
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8 and not (tmp_path / "out").exists()
    assert main(["train", "--config", str(file), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trained"] < plan["parameters"] and plan["memory_gb"]["step"] > 0


def test_a_dry_run_of_a_restart_plans_the_new_run(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train(config)
    other = from_mapping({**config, "lr": 1e-5, "steps": 9})
    with pytest.raises(ValueError, match="holds another run"):
        dry_run(other)
    plan = dry_run(other, restart=True)
    assert plan.steps == 9 and not plan.resumes_at and not Path(config["out"] + ".1").exists()


def test_help_lists_every_key(capsys):
    from dataclasses import fields

    from florence2.training.config import TrainConfig, described

    assert main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {field.name} (" in said for field in fields(TrainConfig))
    assert all(text for _, _, text in described(TrainConfig))
