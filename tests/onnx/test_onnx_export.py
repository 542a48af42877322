"""An exported model answers as the torch model does, without torch; and nothing is kept that was not compared."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import florence2
from florence2 import sources
from florence2.cli import main
from florence2.codec.tasks import Task
from florence2.onnx import exporting, load
from florence2.onnx.exporting import export
from florence2.onnx.onnx_folder import GRAPHS, RECORD, OnnxFolder

ASKS = ["<OD>", "<CAPTION>", "<OCR_WITH_REGION>"]
SCENES = [sample.image for sample in sources.open("scenes:4")]


@pytest.fixture(scope="module")
def nano():
    return florence2.load("nano")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "nano"
    made = export("nano", out, pictures=6)
    assert made.folder.checked["float32"]["pictures"] == 6 and made.int8 is None
    assert made.folder.checked["float32"]["ties"] == 0
    assert made.folder.checked["float32"]["max_abs_logprob"] < 1e-4
    return out


@pytest.fixture(scope="module")
def exported(folder):
    return load(folder, threads=1)


def same(got, wanted):
    assert got.token_ids == wanted.token_ids and got.text == wanted.text and got.truncated == wanted.truncated
    assert [r.box for r in got.regions] == [r.box for r in wanted.regions]
    items = zip((*got.regions, *got.texts), (*wanted.regions, *wanted.texts), strict=True)
    assert all(a.score == pytest.approx(b.score, abs=1e-4) for a, b in items)
    np.testing.assert_allclose(got.token_measures, wanted.token_measures, rtol=0, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"official": True, "max_new_tokens": 20}, {"margin": 1.0}])
def test_answers_are_those_of_torch(nano, exported, options):
    for picture in SCENES[:2]:
        for got, wanted in zip(exported.predict(picture, ASKS, **options), nano.predict(picture, ASKS, **options)):
            same(got, wanted)


def test_pictures_and_asks_share_batches(nano, exported):
    asks = [*ASKS, florence2.Ask("<OPEN_VOCABULARY_DETECTION>", labels=("cat", "boat"))]
    answers = list(exported.predict_many(SCENES, asks, batch_size=3))
    assert len(answers) == 4
    for found, wanted in zip(answers, nano.predict_many(SCENES, asks, batch_size=3), strict=True):
        for one, other in zip(found, wanted, strict=True):
            same(one, other)


def test_it_answers_where_torch_cannot_be_imported(folder, nano):
    code = (
        "import sys, json\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'transformers'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import florence2\n"
        "model = florence2.onnx.load(sys.argv[1], threads=1)\n"
        "pictures = [sample.image for sample in florence2.sources.open('scenes:2')]\n"
        "many = [a.to_json() for a in model.predict_many(pictures, '<OD>')]\n"
        "beams = model.predict(pictures[0], ['<CAPTION>', '<OD>'], num_beams=3, min_score=0.2)\n"
        "assert model.info()['tier'] == 'float32' and beams[1].official() and beams[1].xyxy.shape[1] == 4\n"
        "print(json.dumps([many, [a.to_json() for a in beams]]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    many, beams = json.loads(run.stdout)
    wanted = [*nano.predict_many(SCENES[:2], "<OD>"), *nano.predict(SCENES[0], ["<CAPTION>", "<OD>"], num_beams=3)]
    assert [answer["token_ids"] for answer in many + beams] == [list(answer.token_ids) for answer in wanted]
    assert many[0]["regions"][0]["score"] == pytest.approx(wanted[0].regions[0].score, abs=1e-4)


def test_names_and_shapes_are_those_of_the_published_graphs(folder, nano):
    files = {path.name for path in (folder / "onnx").iterdir()}
    assert files == {f"{name}.onnx" for name in GRAPHS}
    layers = range(nano.config.text.decoder_layers)
    caches = [f"{n}.{side}.{kind}" for n in layers for side in ("decoder", "encoder") for kind in ("key", "value")]
    decoder = ["inputs_embeds", "encoder_hidden_states", "encoder_attention_mask", "use_cache_branch"]
    expected = {
        "vision_encoder": (["pixel_values"], ["image_features"]),
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "encoder_model": (["inputs_embeds", "attention_mask"], ["last_hidden_state"]),
        "decoder_model_merged": (
            [*decoder, *(f"past_key_values.{name}" for name in caches)],
            ["logits", *(f"present.{name}" for name in caches)],
        ),
    }
    for name, (inputs, outputs) in expected.items():
        session = onnxruntime.InferenceSession(str(folder / "onnx" / f"{name}.onnx"))
        assert {i.name for i in session.get_inputs()} == set(inputs) and len(session.get_inputs()) == len(inputs)
        assert [o.name for o in session.get_outputs()] == outputs
        assert all(isinstance(i.shape[0], str) for i in session.get_inputs() if i.name != "use_cache_branch")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "florence2" and config["text_config"]["model_type"] == "florence2_language"
    prompts = json.loads((folder / "preprocessor_config.json").read_text())
    assert prompts["task_prompts_without_inputs"]["<OD>"].startswith("Locate the objects")
    assert "{input}" in prompts["task_prompts_with_input"]["<CAPTION_TO_PHRASE_GROUNDING>"]
    assert prompts["tasks_answer_post_processing_type"]["<OCR_WITH_REGION>"] == "ocr"
    assert config["transformers.js_config"] == {"dtype": dict.fromkeys(GRAPHS, "fp32")}  # a browser's default is int8
    assert (folder / "generation_config.json").is_file() and (folder / "tokenizer.json").is_file()


def test_own_tasks_are_in_the_tables_of_transformers_js(folder, tmp_path):
    prompts = json.loads((folder / "preprocessor_config.json").read_text())
    assert "<VQA>" not in prompts["task_prompts_with_input"]  # its prompt is its token and the text: as it was given
    assert prompts["tasks_answer_post_processing_type"]["<VQA>"] == "pure_text"
    (tmp_path / "base").mkdir()
    model = florence2.load("nano")
    model.tasks = {
        **model.tasks,
        "<COUNT>": Task("<COUNT>", "How many?", "text", "answer"),
        "<FIND>": Task("<FIND>", "Find {input} here.", "text", "answer"),
        "<OD>": dataclasses.replace(model.tasks["<OD>"], prompt="What is where?"),
    }
    model.save(tmp_path / "base")
    export(tmp_path / "base", tmp_path / "out", pictures=1)
    prompts = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert prompts["task_prompts_without_inputs"]["<COUNT>"] == "How many?"
    assert prompts["task_prompts_without_inputs"]["<OD>"] == "What is where?"
    assert prompts["task_prompts_with_input"]["<FIND>"] == "Find {input} here."


def test_the_merged_decoder_takes_what_transformers_js_feeds_it(folder, nano):
    """First empty pasts and the branch without a cache, then what it gave back; encoder pasts kept from the first."""
    run = {name: onnxruntime.InferenceSession(str(folder / "onnx" / f"{name}.onnx")).run for name in GRAPHS}
    config, ids = nano.config, [2, 0, 40, 41, 42]
    with torch.inference_mode():
        features = nano.encode_image(SCENES[0]).features[None]
        prompt = torch.tensor([nano.tokenizer.prompt_ids("Locate the objects with category name in the image.")])
        wanted = nano.model(features, prompt, None, torch.tensor([ids]))[0].numpy()
    embed = lambda ids: run["embed_tokens"](None, {"input_ids": np.array([ids])})[0]  # noqa: E731
    inputs = np.concatenate([features.numpy(), embed(prompt[0].tolist())], 1)
    mask = np.ones(inputs.shape[:2], np.int64)
    hidden = run["encoder_model"](None, {"inputs_embeds": inputs, "attention_mask": mask})[0]
    heads, width = config.text.decoder_heads, config.text.d_model // config.text.decoder_heads
    caches = [
        f"{n}.{side}.{kind}"
        for n in range(config.text.decoder_layers)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    ]
    past = {f"past_key_values.{name}": np.zeros((1, heads, 0, width), np.float32) for name in caches}
    logits = []
    for place, token in enumerate(ids):
        feeds = {"inputs_embeds": embed([token]), "encoder_hidden_states": hidden, "encoder_attention_mask": mask}
        out = run["decoder_model_merged"](None, {**feeds, "use_cache_branch": np.array([place > 0]), **past})
        logits.append(out[0][0, -1])
        for name, present in zip(caches, out[1:], strict=True):
            if place == 0 or "decoder" in name:
                past[f"past_key_values.{name}"] = present
    assert past["past_key_values.0.decoder.key"].shape[2] == len(ids)
    np.testing.assert_allclose(np.stack(logits), wanted, rtol=0, atol=1e-3)


def test_an_adapter_is_merged(tmp_path, nano):
    from peft import LoraConfig, get_peft_model

    base = florence2.load("nano")
    base.save(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules=r".*\.mlp\.up", init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "lora")
    export(tmp_path / "lora", tmp_path / "out", pictures=2)
    got = load(tmp_path / "out", threads=1).predict(SCENES[0], "<CAPTION>", max_new_tokens=12)
    same(got, florence2.load(tmp_path / "lora").predict(SCENES[0], "<CAPTION>", max_new_tokens=12))
    assert got.token_logprobs != nano.predict(SCENES[0], "<CAPTION>", max_new_tokens=12).token_logprobs


def test_an_adapter_that_was_trained_here_is_merged(tmp_path, nano):
    config = tmp_path / "lora.yaml"
    config.write_text(
        "model: nano\nstrategy: lora\nsteps: 3\nbatch_size: 2\nlr: 1e-2\nthreads: 1\n"
        "data: [{path: 'scenes:8', tasks: [OD]}]\n"
    )
    assert main(["train", "--config", str(config), f"--out={tmp_path / 'lora'}"]) == 0
    export(tmp_path / "lora", tmp_path / "out", pictures=2)
    trained, exported = florence2.load(tmp_path / "lora"), load(tmp_path / "out", threads=1)
    for picture in SCENES[:3]:
        same(exported.predict(picture, "<OD>"), trained.predict(picture, "<OD>"))
    assert trained.predict(SCENES[0], "<OD>").token_logprobs != nano.predict(SCENES[0], "<OD>").token_logprobs


def test_graphs_that_differ_are_not_kept(tmp_path, monkeypatch):
    real = exporting.write_graphs

    def other(model, folder):
        with torch.no_grad():
            model.language.embedding.weight[5:] = model.language.embedding.weight[5:].flip(0)
        real(model, folder)
        with torch.no_grad():
            model.language.embedding.weight[5:] = model.language.embedding.weight[5:].flip(0)

    monkeypatch.setattr(exporting, "write_graphs", other)
    with pytest.raises(ValueError, match="picture 1 of 2, .*; the graphs do not compute .*; nothing was written"):
        export("nano", tmp_path / "out", pictures=2)
    assert list(tmp_path.iterdir()) == []


def test_a_tie_may_be_broken_either_way(tmp_path, monkeypatch):
    """Two tokens with one row: torch takes the first, a graph with a rounding error the other."""
    model = florence2.load("nano")
    caption = model.predict(SCENES[2], "<CAPTION>", num_beams=1)  # what the third picture is asked
    token = caption.token_ids[5]
    other = 650  # a piece of a word, never said
    rows = model.model.language.embedding.weight
    with torch.no_grad():
        rows[other] = rows[token]
    model.save(tmp_path / "base")
    real = exporting.write_graphs

    def larger(by):
        def write(model, folder):
            with torch.no_grad():
                model.language.embedding.weight[other] *= 1 + by
            real(model, folder)
            with torch.no_grad():
                model.language.embedding.weight[other] /= 1 + by

        return write

    monkeypatch.setattr(exporting, "write_graphs", larger(1e-5))
    made = export(tmp_path / "base", tmp_path / "out", pictures=3)
    assert made.folder.checked["float32"]["ties"] >= 1
    assert made.folder.checked["float32"]["tokens"] > 5
    monkeypatch.setattr(exporting, "write_graphs", larger(1e-2))
    monkeypatch.setattr(exporting, "TIE", -1.0)
    with pytest.raises(ValueError, match=rf"token \d+ is \({token},\) in torch, \({other},\) in onnxruntime"):
        export(tmp_path / "base", tmp_path / "no", pictures=3)


def test_what_a_killed_export_left_is_written_over(tmp_path):
    """An empty folder is taken as it is: a volume of a container cannot be replaced."""
    code = (
        "import sys, time\n"
        "from florence2.onnx import exporting\n"
        "exporting._compare = lambda *_: print('begun', flush=True) or time.sleep(60)\n"
        "exporting.export('nano', sys.argv[1])\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    place = out.stat().st_ino
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(ValueError, match="out: another export is writing it; wait for it"):
            export("nano", out, pictures=1)
        with pytest.raises(ValueError, match="does not exist; expected a folder that florence2 export-model wrote"):
            load(out)
        process.kill()
    assert (out / ".part" / "onnx" / "vision_encoder.onnx").is_file()
    export("nano", out, pictures=1)
    assert out.stat().st_ino == place and not (out / ".part").exists()
    assert load(out, threads=1).predict(SCENES[0], "<OD>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "no_such_set"}, "no_such_set: does not exist"),
        ({"data": "scenes:2", "tasks": ["NOPE"]}, "'NOPE': unknown"),
        ({"data": "scenes:2", "limit": -3}, "limit: expected a whole number of at least 0, got -3"),
        ({"data": "scenes:2", "limit": -3, "split": "test"}, "limit: expected a whole number of at least 0, got -3"),
    ],
)
def test_data_that_int8_cannot_be_judged_on_are_refused_before_the_graphs(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(exporting, "write_graphs", lambda *_: pytest.fail("the graphs were written first"))
    with pytest.raises((ValueError, OSError), match=message):
        export("nano", tmp_path / "out", int8=True, **options)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_judged_by_the_gate(tmp_path, monkeypatch, capsys):
    from florence2.evaluation import tier_gate

    monkeypatch.setattr(tier_gate, "WORST_LOSS", 5.0)  # three pictures have wide intervals
    monkeypatch.setattr(exporting.export, "__kwdefaults__", {**exporting.export.__kwdefaults__, "pictures": 2})
    args = ["export-model", "nano", "--to", "onnx", "--int8", "--data", "scenes:3", "--task", "OD", "--json"]
    assert main([*args, "--out", str(tmp_path / "good")]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["int8"] and made["checked"]["int8"]["passed"] and made["checked"]["int8"]["agreement"] >= 0.99
    for name in made["int8"]:
        assert made["sizes"][f"{name}_quantized.onnx"] < made["sizes"][f"{name}.onnx"]
    assert set(made["checked"]["int8"]["keep"]) == set(GRAPHS) - set(made["int8"])
    config = json.loads((tmp_path / "good" / "config.json").read_text())
    expected = {name: "q8" if name in made["int8"] else "fp32" for name in GRAPHS}
    assert config["transformers.js_config"] == {"dtype": expected}
    model = load(tmp_path / "good", quantize="int8", threads=1)
    assert model.info()["tier"] == "int8" and model.identity != load(tmp_path / "good", threads=1).identity
    assert len(model.predict(SCENES[0], "<OD>").boxed) > 0
    monkeypatch.setattr(tier_gate.TierGate, "agreement", lambda self, model: (0.5, 100))
    assert main([*args, "--out", str(tmp_path / "bad")]) == 1
    assert json.loads(capsys.readouterr().out)["int8"] == []
    assert {path.name for path in (tmp_path / "bad" / "onnx").iterdir()} == {f"{name}.onnx" for name in GRAPHS}
    with pytest.raises(ValueError, match="holds no int8 graphs; export with --int8"):
        load(tmp_path / "bad", quantize="int8")
    assert load(tmp_path / "bad", threads=1).predict(SCENES[0], "<OD>")


def test_refusals(tmp_path, folder, exported, capsys):
    with pytest.raises(ValueError, match=f"{RECORD}: does not exist; expected a folder that florence2 export-model"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no weights: .*; ONNX graphs that florence2 export-model wrote are opened by"):
        florence2.load(folder)
    with pytest.raises(ValueError, match="exists; name another folder"):
        export("nano", folder)
    with pytest.raises(ValueError, match="config.json: is a file; expected a folder for out"):
        export("nano", folder / "config.json" / "out")
    with pytest.raises(ValueError, match="quantize: expected None or 'int8', got 'int4'"):
        load(folder, quantize="int4")
    with pytest.raises(ValueError, match="providers: expected some of"):
        load(folder, providers=["NoSuchProvider"])
    for providers in ("CPUExecutionProvider", 5, [1]):
        with pytest.raises(ValueError, match="providers: expected names such as 'CPUExecutionProvider'"):
            load(folder, providers=providers)
    for threads in (0, 10**9, True, "auto"):
        with pytest.raises(ValueError, match="threads: expected a whole number from 1 to 1024"):
            load(folder, threads=threads)
    with pytest.raises(ValueError, match="calibration: expected True or False, got 'mine.json'"):
        load(folder, calibration="mine.json")
    with pytest.raises(ValueError, match="a request cannot join others"):
        exported.model.prefill(
            np.zeros((1, 3, exported.config.text.d_model), np.float32), np.array([[0, 5, 2]]), None
        ).admit(None)
    assert main(["export-model", "nano", "--to", "onnx", "--data", "scenes:3", "--out", str(tmp_path / "x")]) == 1
    assert "--data: says what int8 is judged on; add --int8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "onnx" / "embed_tokens.onnx").unlink(), "embed_tokens.onnx: expected .* bytes, .* got None"),
        (lambda f: (f / "onnx" / "encoder_model.onnx").write_bytes(b"x"), "encoder_model.onnx: expected .* got 1"),
        (lambda f: (f / RECORD).write_text("{}"), f"{RECORD}: not the record of an export"),
        (lambda f: (f / RECORD).write_text("[" * 9999), f"{RECORD}: not the record of an export"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
    ],
)
def test_a_damaged_folder_is_refused_by_the_file(folder, tmp_path, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_a_graph_that_is_none_or_another_model_s_is_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "onnx" / "encoder_model.onnx"
    path.write_bytes(b"\x01" * path.stat().st_size)
    with pytest.raises(ValueError, match="encoder_model.onnx: damaged: its bytes do not match its checksum"):
        load(copy)
    record = OnnxFolder(copy, florence2.load("nano").config, "", {}, {})
    record.measured().write()
    with pytest.raises(ValueError, match="encoder_model.onnx: not a graph that onnxruntime opens"):
        load(copy)
    shutil.copy(copy / "onnx" / "embed_tokens.onnx", path)
    record.measured().write()
    with pytest.raises(
        ValueError, match="encoder_model.onnx: expected the inputs attention_mask, inputs_embeds, got in"
    ):
        load(copy)


def test_graphs_of_another_exporter_are_named_as_such(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / RECORD).unlink()
    with pytest.raises(ValueError, match="copy: holds graphs of another exporter, or of an export that was cut short"):
        load(copy)


def test_it_goes_to_another_process_by_its_folder(exported):
    twin = pickle.loads(pickle.dumps(exported))
    assert twin.identity == exported.identity and twin.info() == exported.info()
    same(twin.predict(SCENES[0], "<OD>"), exported.predict(SCENES[0], "<OD>"))


def test_pictures_that_another_runtime_encoded_are_refused(nano, exported):
    for one, other in ((nano, exported), (exported, nano)):
        with pytest.raises(ValueError, match="image: was encoded by another model, .* encode it with this one"):
            one.predict(other.encode_image(SCENES[0]), "<OD>")


def test_a_file_holds_no_more_than_protobuf_can(tmp_path, monkeypatch):
    from florence2.onnx import graphs

    monkeypatch.setattr(graphs, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="vision_encoder: its weights take .* an ONNX file holds at most 1,000"):
        export("nano", tmp_path / "out", pictures=1)
    assert list(tmp_path.iterdir()) == []
