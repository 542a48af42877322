"""Checkpoints of every layout open whole, or are refused in one line that names the file and the key."""

import dataclasses
import json
import pickle
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from florence2.model.checkpoint import load_model, open_checkpoint, save_model
from florence2.model.model_config import from_json, to_json
from tests.parity.twins import IMAGE_ID, lively, tiny

LAYOUTS = ("florence2", "microsoft", "transformers")
SHARED = {
    "microsoft": "language_model.model.shared.weight",
    "transformers": "model.language_model.shared.weight",
    "florence2": "language.embedding.weight",
}
HEAD = {"microsoft": "language_model.lm_head.weight", "transformers": "lm_head.weight"}


@pytest.fixture(scope="module")
def model():
    return lively(tiny())


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A folder of each layout."""
    root = tmp_path_factory.mktemp("saved")
    for layout in LAYOUTS:
        save_model(model, root / layout, layout, named_rows=IMAGE_ID)
    return root


@pytest.fixture
def copy(saved, tmp_path):
    def copied(layout):
        return shutil.copytree(saved / layout, tmp_path / layout)

    return copied


def edit(folder, tensors=None, config=None, file="config.json"):
    """Change a saved folder: `tensors` is called with the dict of tensors, `config` with the dict of a JSON file."""
    if tensors:
        state = load_file(folder / "model.safetensors")
        tensors(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if config:
        data = json.loads((folder / file).read_text())
        config(data)
        (folder / file).write_text(json.dumps(data))


def to_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def to_shards(folder, suffix="safetensors"):
    """Two shards and an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{n}-of-00002.{suffix}" for n in (1, 2)]
    half = len(state) // 2
    for name, keys in zip(names, (list(state)[:half], list(state)[half:])):
        part = {key: state[key] for key in keys}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
    rows = {key: names[n >= half] for n, key in enumerate(state)}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": rows}))


def same(model, other, rows=IMAGE_ID):
    """Every tensor bit-equal, the embedding on its named rows."""
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        cut = slice(rows) if name.startswith(("language.embedding", "language.head")) else slice(None)
        assert torch.equal(tensor[cut], theirs[name][cut]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["one file", "pickle", "shards", "pickled shards"])
def test_every_layout_opens_whole(model, copy, layout, form):
    folder = copy(layout)
    {
        "one file": lambda: None,
        "pickle": lambda: to_pickle(folder),
        "shards": lambda: to_shards(folder),
        "pickled shards": lambda: to_shards(folder, "bin"),
    }[form]()
    assert open_checkpoint(folder).layout == layout
    same(model, load_model(folder))


@pytest.mark.parametrize(
    "change, dtype",
    [
        (lambda key, tensor: tensor.half(), "float16"),
        (lambda key, tensor: tensor.bfloat16(), "bfloat16"),
        (lambda key, tensor: tensor.half() if tensor.ndim > 1 else tensor, "float32"),  # norms kept in float32
        (lambda key, tensor: tensor.half() if "vision" in key else tensor.bfloat16(), "float32"),
        (lambda key, tensor: tensor.double(), "float64"),
        (lambda key, tensor: torch.nn.Parameter(tensor.half()), "float16"),  # a dict of parameters
    ],
)
def test_a_checkpoint_s_type_holds_all_its_weights(model, copy, change, dtype):
    folder = copy("microsoft")
    to_pickle(folder)
    state = {key: change(key, tensor) for key, tensor in torch.load(folder / "pytorch_model.bin").items()}
    torch.save(state, folder / "pytorch_model.bin")
    opened = open_checkpoint(folder)
    assert str(opened.dtype) == f"torch.{dtype}"
    loaded = load_model(folder).state_dict()
    for name in opened.names:
        assert loaded[name].dtype == torch.float32 and torch.equal(loaded[name], opened.read(name).float()), name


def test_safetensors_are_read_before_a_pickle(model, copy):
    folder = copy("microsoft")
    (folder / "pytorch_model.bin").write_bytes(b"rubbish")
    same(model, load_model(folder))


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trips_are_bit_equal(model, tmp_path, first, second, dtype):
    start = model if dtype == "float32" else lively(tiny()).half()
    for step, layout in enumerate((first, second, first)):
        save_model(start, tmp_path / f"{step}", layout, named_rows=IMAGE_ID)
        start = load_model(tmp_path / f"{step}", dtype)
    same(model if dtype == "float32" else lively(tiny()).half(), start)
    ends = [load_file(tmp_path / step / "model.safetensors") for step in "02"]
    assert ends[0].keys() == ends[1].keys()
    for key, tensor in ends[0].items():
        rows = IMAGE_ID if len(tensor) >= IMAGE_ID else None  # the rest is padding
        assert torch.equal(tensor[:rows], ends[1][key][:rows]), key


def test_rows_of_each_layout(model, saved):
    tables = {layout: load_file(saved / layout / "model.safetensors")[SHARED[layout]] for layout in LAYOUTS}
    assert {layout: len(table) for layout, table in tables.items()} == {
        "florence2": 1200, "microsoft": IMAGE_ID, "transformers": 1216,
    }  # fmt: skip
    mean = tables["microsoft"].double().mean(0).float()
    assert all(torch.equal(row, mean) for row in tables["transformers"][1200:])
    assert open_checkpoint(saved / "transformers").config.image_id == IMAGE_ID


def test_a_named_placeholder_keeps_its_row(model, tmp_path):
    save_model(model, tmp_path, "microsoft", named_rows=IMAGE_ID + 1)
    assert open_checkpoint(tmp_path).config.text.vocab_size == IMAGE_ID + 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_head_trained_apart_stays_apart(tmp_path, layout):
    config = tiny()
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied_head=False))
    apart = lively(config)
    save_model(apart, tmp_path, layout)
    opened = load_model(tmp_path)
    assert not opened.config.text.tied_head
    same(apart, opened)


@pytest.mark.parametrize("keep", ["language_model.lm_head.weight", "language_model.model.decoder.embed_tokens.weight"])
def test_any_one_copy_of_the_tied_matrix_will_do(model, copy, keep):
    folder = copy("microsoft")

    def drop(state):
        for key in [k for k in state if "embed_tokens" in k or "lm_head" in k or "shared" in k]:
            if key != keep:
                del state[key]

    edit(folder, drop)
    same(model, load_model(folder))


@pytest.mark.parametrize("layout", ["microsoft", "transformers"])
@pytest.mark.parametrize("kind", ["", "florence_vision", "davit"])
def test_model_types_of_fine_tunes(model, copy, layout, kind):
    folder = copy(layout)
    edit(folder, config=lambda data: data["vision_config"].update(model_type=kind))
    same(model, load_model(folder))


def test_sizes_come_from_tensors(copy):
    folder = copy("microsoft")

    def lie(data):
        data.update(vocab_size=51289, bos_token_id=2, eos_token_id=1, pad_token_id=0)  # wrong ids at the top
        data["text_config"].update(vocab_size=51289, max_position_embeddings=4096)
        data["vision_config"]["image_pos_embed"]["max_pos_embeddings"] = 50

    edit(folder, config=lie)
    config = load_model(folder).config
    assert (config.text.vocab_size, config.text.max_positions, config.vision.max_side) == (IMAGE_ID, 160, 12)
    assert (config.bos_id, config.pad_id, config.eos_id, config.start_id) == (0, 1, 2, 2)


RULES = ("num_beams", "no_repeat_ngram_size", "early_stopping", "forced_bos_id", "forced_eos_id")
OFFICIAL = (3, 3, True, 0, 2)


@pytest.mark.parametrize(
    "layout, change, expected",
    [
        ("microsoft", {}, OFFICIAL),
        ("microsoft", {"num_beams": 1, "early_stopping": False}, (1, 3, False, 0, 2)),
        ("microsoft", {"early_stopping": "never"}, (3, 3, "never", 0, 2)),
        ("transformers", {"early_stopping": "never"}, (3, 3, "never", 0, 2)),
        ("microsoft", None, OFFICIAL),  # text_config lacks them: the official table
        ("transformers", {}, OFFICIAL),
        ("transformers", None, OFFICIAL),  # no generation_config.json: the official table
        ("transformers", "empty", (1, 0, False, None, None)),  # absent keys: what transformers takes them for
        ("transformers", {"num_beams": None, "forced_bos_token_id": None}, (1, 3, True, None, 2)),
        ("transformers", {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}, OFFICIAL),  # wrong ids: ignored
    ],
)
def test_generation_rules_by_layout(copy, layout, change, expected):
    folder = copy(layout)
    keys = ("num_beams", "no_repeat_ngram_size", "early_stopping", "forced_bos_token_id", "forced_eos_token_id")
    if layout == "microsoft":
        text = {"update": lambda data: data["text_config"].update(change or {})}
        text["drop"] = lambda data: [data["text_config"].pop(key) for key in keys]
        edit(folder, config=text["drop" if change is None else "update"])
        (folder / "generation_config.json").write_text('{"num_beams": 7}')  # not what the remote code reads
    elif change is None:
        (folder / "generation_config.json").unlink()
    elif change == "empty":
        (folder / "generation_config.json").write_text("{}")
    else:
        edit(folder, config=lambda data: data.update(change), file="generation_config.json")
    config = open_checkpoint(folder).config
    assert tuple(getattr(config, key) for key in RULES) == expected
    assert (config.bos_id, config.pad_id, config.eos_id) == (0, 1, 2)


def test_their_rules_are_official_unless_ours_says_otherwise(copy):
    folder = copy("microsoft")
    assert open_checkpoint(folder).config.rules == "grammar"
    edit(folder, config=lambda data: data.pop("florence2_rules"))
    assert open_checkpoint(folder).config.rules == "official"


def test_picture_size_comes_from_the_preprocessor(copy):
    folder = copy("transformers")
    edit(folder, config=lambda d: d.update(size={"height": 64, "width": 96}), file="preprocessor_config.json")
    assert open_checkpoint(folder).config.image_size_wh == (96, 64)
    inner = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert open_checkpoint(folder).config.image_size_wh == (96, 64)
    (folder / "processor_config.json").unlink()
    assert open_checkpoint(folder).config.image_size_wh == (768, 768)


def test_config_goes_through_json(model):
    assert from_json(json.loads(json.dumps(to_json(model.config)))) == model.config


class Evil:
    def __reduce__(self):
        return print, ("never run",)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(bytes(data))


def _evil(folder):
    torch.save({"x": torch.ones(2), "y": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _evil_old(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"y": Evil()}))
    (folder / "model.safetensors").unlink()


def _index(change):
    def act(folder):
        to_shards(folder)
        edit(folder, config=lambda data: change(data["weight_map"]), file="model.safetensors.index.json")

    return act


def _cut(folder, size=-100):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:size])


def _rename(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def _bad_pickle(folder):
    to_pickle(folder)
    flip(folder / "pytorch_model.bin", 300_000)


def _cut_pickle(folder):
    to_pickle(folder)
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[: len(data) // 2])


def _set(key, value):
    def change(state):
        state[key] = value if isinstance(value, torch.Tensor) else state[key].index_fill(0, torch.tensor([1]), value)

    return lambda folder: edit(folder, change)


MS, TF = "microsoft", "transformers"
QKV = "vision_tower.blocks.1.0.spatial_block.window_attn.fn.qkv.weight"
BAD = {  # what is wrong: layout, how it comes about, what the one line must name
    "truncated": (TF, _cut, ["model.safetensors", "truncated"]),
    "cut in the header": (TF, lambda f: _cut(f, 40), ["model.safetensors", "header"]),
    "empty file": (TF, lambda f: _cut(f, 0), ["model.safetensors", "truncated"]),
    "bit flipped in the header": (TF, lambda f: flip(f / "model.safetensors", 9), ["model.safetensors"]),
    "bit flipped in a weight": (
        MS,
        lambda f: flip(f / "model.safetensors", -5),
        ["model.safetensors: visual_temporal_embed.pos_idx_to_embed", "checksum"],
    ),
    "header claims more than the file holds": (
        TF,
        lambda f: (f / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}"),
        ["model.safetensors", "header claims"],
    ),
    "pickle with code": (MS, _evil, ["pytorch_model.bin", "code", "print"]),
    "pickle with code, old form": (MS, _evil_old, ["pytorch_model.bin", "code"]),
    "pickle with a flipped bit": (MS, _bad_pickle, ["pytorch_model.bin: language_model.", "damaged"]),
    "pickle cut": (MS, _cut_pickle, ["pytorch_model.bin"]),
    "missing shard": (
        TF,
        lambda f: (to_shards(f), (f / "model-00002-of-00002.safetensors").unlink()),
        ["index.json", "model-00002-of-00002.safetensors", "missing"],
    ),
    "index names an absent key": (
        TF,
        _index(lambda rows: rows.update({"model.ghost": "model-00001-of-00002.safetensors"})),
        ["index.json", "model.ghost"],
    ),
    "index leaves its folder": (
        TF,
        _index(lambda rows: rows.update({next(iter(rows)): "../../etc/passwd"})),
        ["index.json", "../../etc/passwd"],
    ),
    "index forgets a key": (TF, _index(lambda rows: rows.popitem()), ["unexpected"]),
    "no weights": (TF, _rename, ["no weights", "model.safetensors"]),
    "no config": (TF, lambda f: (f / "config.json").unlink(), ["config.json", "missing"]),
    "config is no JSON": (TF, lambda f: (f / "config.json").write_text("{"), ["config.json", "JSON"]),
    "config of another model": (
        TF, lambda f: edit(f, config=lambda d: d.update(model_type="bart")), ["config.json", "model_type", "bart"],
    ),
    "config of another size": (
        MS, lambda f: edit(f, config=lambda d: d["text_config"].update(d_model=96)), ["config.json", "projection_dim"],
    ),
    "config with another width inside": (
        MS,
        lambda f: edit(f, config=lambda d: d["text_config"].update(encoder_ffn_dim=100)),
        ["language_model.model.encoder.layers.0.fc1.weight", "(100, 48)", "(96, 48)"],
    ),
    "config with layers too few": (
        MS, lambda f: edit(f, config=lambda d: d["text_config"].update(encoder_layers=1)), ["encoder.layers.1"],
    ),
    "config with layers beyond reason": (
        MS, lambda f: edit(f, config=lambda d: d["text_config"].update(encoder_layers=10**9)), ["config.json", "layer"],
    ),
    "config with a size that is none": (
        MS, lambda f: edit(f, config=lambda d: d["text_config"].update(d_model="48")), ["text_config.d_model", "'48'"],
    ),
    "another tower": (
        MS, lambda f: edit(f, config=lambda d: d["vision_config"].update(model_type="vit")), ["config.model_type"],
    ),
    "another activation": (
        TF,
        lambda f: edit(f, config=lambda d: d["text_config"].update(activation_function="relu")),
        ["text_config.activation_function", "relu"],
    ),
    "another crop": (
        TF,
        lambda f: edit(f, config=lambda d: d.update(do_center_crop=True), file="preprocessor_config.json"),
        ["preprocessor_config.json", "do_center_crop"],
    ),
    "another scale of grey": (
        TF,
        lambda f: edit(f, config=lambda d: d.update(rescale_factor=1 / 127.5), file="preprocessor_config.json"),
        ["preprocessor_config.json", "rescale_factor"],
    ),
    "a key missing": (MS, lambda f: edit(f, lambda s: s.pop(QKV)), ["model.safetensors", QKV, "missing"]),
    "a key too many": (MS, lambda f: edit(f, lambda s: s.update(x=torch.ones(2))), ["safetensors: x", "unexpected"]),
    "a shape changed": (MS, _set(QKV, torch.ones(3, 4)), ["model.safetensors", QKV, "(3, 4)"]),
    "not a number": (MS, _set(QKV, float("nan")), ["model.safetensors", QKV, "nan"]),
    "infinite": (MS, _set(QKV, float("inf")), ["model.safetensors", QKV, "inf"]),
    "absurdly large": (MS, _set(QKV, 1e30), ["model.safetensors", QKV, "1e+30"]),
    "a bias on the logits": (
        MS, _set("language_model.final_logits_bias", torch.ones(1, IMAGE_ID)), ["final_logits_bias", "zeros"],
    ),
    "an embedding trained apart from its copy": (
        MS, _set("language_model.model.encoder.embed_tokens.weight", 2.0), ["encoder.embed_tokens", "shared.weight"],
    ),
    "a head promised and absent": (
        TF, lambda f: edit(f, config=lambda d: d.update(tie_word_embeddings=False)), ["lm_head.weight", "missing"],
    ),
    "keys of another model": (
        TF,
        lambda f: save_file({"transformer.h.0.weight": torch.ones(2)}, f / "model.safetensors"),
        ["model.safetensors", "transformer.h.0.weight"],
    ),
    "integers for weights": (MS, _set(QKV, torch.ones(96, 32, dtype=torch.int8)), ["model.safetensors", QKV, "I8"]),
    "a key unknown to ours": (
        "florence2", lambda f: edit(f, config=lambda d: d["text"].update(ghost=1)), ["config.json", "text.ghost"],
    ),
    "a name of many letters": (
        "florence2",
        lambda f: save_file({"x" * 400: torch.ones(1)}, f / "model.safetensors"),
        ["model.safetensors", "at most 300 letters"],
    ),
    "a name of two lines": (
        MS, lambda f: edit(f, lambda s: s.update({"a\nb": torch.ones(1)})), ["named on one line", "a\\nb"],
    ),
    "statistics too large for a float": (
        TF,
        lambda f: edit(f, config=lambda d: d.update(image_std=[1, 10**400, 1]), file="preprocessor_config.json"),
        ["preprocessor_config.json: image_std"],
    ),
    "a number that is none, ours": (
        "florence2", lambda f: edit(f, config=lambda d: d["text"].update(d_model=True)), ["json: text.d_model"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(copy, case):
    layout, act, named = BAD[case]
    folder = copy(layout)
    act(folder)
    with pytest.raises((ValueError, OSError)) as refusal:
        load_model(folder)
    line = str(refusal.value)
    assert "\n" not in line and len(line) <= 1000, line
    assert str(folder) in line
    for name in named:
        assert name in line, line


JUNK = [None, True, -1, 0, 10**12, 1.5, float("nan"), "", "x", "../x", [], [1], {}, {"a": 1}, [[]], [None] * 4, 1e308]


def places(data, path=()):
    """The path of every value in plain JSON."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:4]) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def junked(data, rng):
    """The same with one value replaced or taken out."""
    data = json.loads(json.dumps(data))
    *path, last = rng.choice(list(places(data)))
    place = data
    for key in path:
        place = place[key]
    if isinstance(place, dict) and rng.random() < 0.2:
        del place[last]
    else:
        place[last] = rng.choice(JUNK)
    return data


@pytest.mark.parametrize("layout", LAYOUTS)
def test_junk_in_a_header_or_a_config_is_never_a_traceback(copy, layout):
    folder, rng = copy(layout), random.Random(0)
    weights = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(weights[:8], "little")
    originals = {path: path.read_bytes() for path in folder.glob("*.json")}
    refused = 0
    for _ in range(120):
        path = rng.choice([folder / "model.safetensors", *originals])
        if path in originals:
            path.write_text(json.dumps(junked(json.loads(originals[path]), rng)))
        else:
            header = json.dumps(junked(json.loads(weights[8:end]), rng)).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header + weights[end:])
        try:
            open_checkpoint(folder)
        except (ValueError, OSError) as refusal:
            refused += 1
            assert "\n" not in str(refusal) and len(str(refusal)) <= 1000 and str(folder) in str(refusal)
        path.write_bytes(originals.get(path, weights))
    assert refused > 40
    open_checkpoint(folder)


def test_an_adapter_is_no_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter's folder"):
        load_model(tmp_path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        load_model(tmp_path / "nowhere")


def test_two_saves_of_one_model_are_equal_to_the_byte(model, tmp_path):
    """A student's name is its file's hash: a rerun must find the same one. The library orders metadata by chance."""
    files = [tmp_path / str(n) / "model.safetensors" for n in range(6)]
    for file in files:
        save_model(model, file.parent)
    assert len({file.read_bytes() for file in files}) == 1
    loaded = load_file(files[0])
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
