"""Quicker products equal the plain one within their error, whatever torch offers; a choice is never silent."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from florence2.decoding.generate import Rules, generate
from florence2.model import bart, operators, tiers
from florence2.model.bart import Attention
from florence2.model.linear import MANY, MLP, Linear, product
from florence2.model.operators import Int8, Reordered, plain
from tests.parity.twins import IMAGE_ID, lively, tiny


@pytest.fixture(params=["operators of torch", "fallbacks"])
def offered(request, monkeypatch):
    """With torch's private operators, and as on a torch that has none."""
    if request.param == "fallbacks":
        monkeypatch.setattr(operators, "has_reordered", lambda dtype: False)
        monkeypatch.setattr(operators, "has_int8", lambda: False)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rms(got, expected):
    return float((got - expected).square().mean().sqrt() / expected.square().mean().sqrt())


PRODUCTS = {"reordered": (lambda: Reordered(8), 1e-6), "int8": (Int8, 0.012)}


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", PRODUCTS)
@torch.inference_mode()
def test_a_packed_product_is_the_plain_one_within_its_error(offered, kind, bias, gelu):
    make, error = PRODUCTS[kind]
    weight, b = drawn(96, 64, seed=1) * 0.1, drawn(96, seed=2) if bias else None
    packed = make()
    for shape in ((1, 64), (3, 5, 64), (300, 64)):
        x = drawn(*shape, seed=len(shape)) * 3
        got, expected = packed(x, weight, b, gelu), plain(x, weight, b, gelu)
        assert got.shape == expected.shape
        assert rms(got, expected) < error
        if kind == "int8":
            assert rms(got, expected) > 1e-4  # it is int8 indeed


@torch.inference_mode()
def test_a_row_in_int8_does_not_depend_on_the_others(offered):
    weight, x, packed = drawn(96, 64), drawn(300, 64, seed=1), Int8()
    together = packed(x * torch.logspace(-3, 3, 300)[:, None], weight, None)
    for row in (0, 127, 128, 299):
        alone = packed((x * torch.logspace(-3, 3, 300)[:, None])[row : row + 1], weight, None)
        assert torch.equal(alone[0], together[row])


@torch.inference_mode()
def test_what_is_no_number_stays_none():
    x = drawn(2, 64)
    x[1, 3] = float("nan")
    got = Int8()(x, drawn(96, 64), None)
    assert got[0].isfinite().all() and got[1].isnan().all()


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_changed_weight_is_packed_again_and_a_copy_packs_anew(kind):
    layer = Linear(64, 96)
    layer.bands = ((MANY, PRODUCTS[kind][0]()),)
    x = drawn(4, 64)
    with torch.inference_mode():
        before = layer(x)
    other = pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(-1)
    with torch.inference_mode():
        assert rms(layer(x) - layer.bias, -(before - layer.bias)) < 1e-5
        for one in other:
            torch.testing.assert_close(one(x), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", PRODUCTS)
@torch.inference_mode()
def test_another_weight_in_the_same_memory_is_another(kind):
    """What is freed may be given out again: neither the address nor the version tells the two apart."""
    packed, x = PRODUCTS[kind][0](), drawn(4, 64)
    memory = torch.empty(96 * 64)
    for seed in range(3):
        weight = torch.frombuffer(memory.numpy(), dtype=torch.float32).view(96, 64)  # new storage, same place
        weight.copy_(drawn(96, 64, seed=seed))
        assert rms(packed(x, weight, None), plain(x, weight, None)) < PRODUCTS[kind][1]
        del weight


CONVERSIONS = {
    "bfloat16": lambda layer: layer.bfloat16(),
    "float16": lambda layer: layer.half(),
    "float64": lambda layer: layer.double(),
    "there and back": lambda layer: layer.bfloat16().float(),
}


@pytest.mark.parametrize("how", CONVERSIONS)
@pytest.mark.parametrize("kind", PRODUCTS)
@torch.inference_mode()
def test_a_converted_layer_computes_in_its_new_type(kind, how):
    layer = Linear(64, 96)
    layer.bands = ((MANY, PRODUCTS[kind][0]()),)
    x = drawn(4, 64)
    layer(x)
    CONVERSIONS[how](layer)
    dtype, error = layer.weight.dtype, PRODUCTS[kind][1] if how == "there and back" else 1e-2
    got = layer(x.to(dtype))
    assert got.dtype == dtype
    assert rms(got.double(), plain(x.to(dtype), layer.weight, layer.bias).double()) < error


def test_with_gradients_a_layer_is_plain():
    layer = Linear(64, 96)
    layer.bands = ((MANY, Int8()),)
    layer(drawn(4, 64)).square().sum().backward()
    weight = layer.weight.detach().clone().requires_grad_()
    nn.functional.linear(drawn(4, 64), weight, layer.bias.detach()).square().sum().backward()
    assert torch.equal(layer.weight.grad, weight.grad) and weight.grad.abs().sum() > 0
    assert torch.equal(layer(drawn(4, 64)), nn.functional.linear(drawn(4, 64), layer.weight, layer.bias))


@torch.inference_mode()
def test_bands_choose_by_the_number_of_rows():
    asked = []

    class Told(Reordered):
        def multiply(self, x, form, weight, bias, gelu):
            asked.append((self.rows, len(x)))
            return plain(x, weight, bias, gelu)

    bands = ((3, None), (64, Told(8)), (MANY, Told(577)))
    for rows in (1, 3, 4, 64, 65):
        product(drawn(rows, 64), drawn(96, 64), None, bands)
    assert asked == [(8, 4), (8, 64), (577, 65)]


def test_an_mlp_with_an_adapter_around_its_layer_still_has_its_gelu():
    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    mlp = MLP(16, 32)
    expected = mlp(drawn(3, 16))
    mlp.up = Around(mlp.up)
    assert torch.equal(mlp(drawn(3, 16)), expected)


# ---- a whole model ----


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No measurement of this machine is read or left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "florence2"


def speeds_of(monkeypatch, **ms):
    """A machine on which the products take so long."""
    ms = {f"{name}_attention{by}": 1.0 for name in ms for by in ("", "_by_products")} | ms
    kinds = {
        name.replace("_", " "): dict.fromkeys(tiers.ROWS, tiers.Timed(value, value, 0.0)) for name, value in ms.items()
    }
    monkeypatch.setattr(
        tiers, "measure", lambda wanted, threads=None, again=False: tiers.Speeds(1, {k: kinds[k] for k in wanted})
    )


def said(model):
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        features = model.encode_image(torch.randn(6, 3, 96, 96, generator=generator))
    ids = torch.randint(4, IMAGE_ID, (6, 5), generator=generator)
    found = generate(model, features, ids, torch.ones_like(ids), [20] * 6, None, Rules(num_beams=3))
    return [answer.ids for answer in found]


@torch.inference_mode()
def logits_of(model):
    generator = torch.Generator().manual_seed(1)
    features = model.encode_image(torch.randn(2, 3, 96, 96, generator=generator))
    ids = torch.randint(4, IMAGE_ID, (2, 5), generator=generator)
    return model(features, ids, None, torch.randint(4, IMAGE_ID, (2, 9), generator=generator))


def test_reordered_weights_give_the_same_ids(monkeypatch):
    monkeypatch.setattr(tiers, "SMALL", 0)
    speeds_of(monkeypatch, float32=2.0, float32_reordered=1.0)
    model = lively(tiny(), eos=1.4)
    expected = said(model)
    told = tiers.accelerate(model)
    assert told["tier"] == "float32" and set(told["products"].values()) == {"reordered", "/".join(["reordered"] * 3)}
    assert "plain 2, reordered 1 ms" in told["why"]
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    assert all(layer.bands for layer in layers) and model.language.output_bands
    assert len({id(packed) for _, packed in model.language.output_bands}) == 2  # few rows and many share a copy
    assert said(model) == expected


def test_what_is_not_quicker_or_not_right_stays_plain(monkeypatch):
    monkeypatch.setattr(tiers, "SMALL", 0)
    model = lively(tiny())
    speeds_of(monkeypatch, float32=1.0, float32_reordered=0.95)
    assert set("/".join(tiers.accelerate(model)["products"].values()).split("/")) == {"plain"}
    kinds = {"float32": tiers.Timed(1.0, 1.0, 1e-7), "float32 reordered": tiers.Timed(0.1, 0.1, 1e-3)}
    found = tiers.Speeds(1, {kind: dict.fromkeys(tiers.ROWS, row) for kind, row in kinds.items()})
    assert found.quickest("float32", "many") == "plain"


def test_attention_by_products_gives_the_same_ids(monkeypatch):
    monkeypatch.setattr(tiers, "SMALL", 0)
    monkeypatch.setattr(bart, "LEAST_KEYS", 0)
    model = lively(tiny(), eos=1.4)
    expected = said(model)
    speeds_of(monkeypatch, float32=1.0, float32_reordered=1.0, float32_attention=1.0, float32_attention_by_products=0.5)
    told = tiers.accelerate(model)
    assert told["attention"] == "two products" and "1 row: torch's 1, two products 0.5 ms" in told["why"]
    assert {layer.by_products for layer in model.modules() if isinstance(layer, Attention)} == {True}
    assert said(model) == expected
    speeds_of(monkeypatch, float32=1.0, float32_reordered=1.0)
    assert tiers.accelerate(model)["attention"] == "torch's own"
    assert {layer.by_products for layer in model.modules() if isinstance(layer, Attention)} == {False}


def test_attention_is_measured(home, monkeypatch):
    monkeypatch.setattr(tiers, "ATTENTION_SHAPE", (2, 9, 8))
    kinds = [f"{name} attention{by}" for name in ("float32", "bfloat16") for by in ("", " by products")]
    found = tiers.measure(kinds, 1)
    for kind in kinds:
        assert set(found.kinds[kind]) == set(tiers.ATTENTION_ROWS)
        assert all(0 < row.ms < 1000 for row in found.kinds[kind].values())
        assert found.ms(kind, "few") < 1000  # as exact as its type
    assert tiers.measure(kinds, 1) == found


def test_int8_is_near_and_keeps_what_it_is_told_to_keep():
    model = lively(tiny())
    expected = logits_of(model)
    assert tiers.accelerate(model, "int8")["tier"] == "int8"
    every = rms(logits_of(model), expected)
    kept = [name for name in tiers.GROUPS if name != "output"]
    told = tiers.accelerate(model, "int8", kept)
    assert told["products"] == {**dict.fromkeys(kept, "float32"), "output": "int8"}
    assert 1e-4 < rms(logits_of(model), expected) < every < 0.2
    tiers.accelerate(model, "int8", list(tiers.GROUPS))
    assert torch.equal(logits_of(model), expected)


def test_int8_leaves_alone_what_float32_does_sooner(monkeypatch):
    monkeypatch.setattr(tiers, "SMALL", 0)
    speeds_of(monkeypatch, float32=1.0)
    monkeypatch.setattr(tiers, "LEAST_INT8", 32)
    model = lively(tiny())
    tiers.accelerate(model, "int8")
    packed = {name: bool(layer.bands) for name, layer in model.named_modules() if isinstance(layer, Linear)}
    folded = {name for name in packed if ".channel.attention." in name and not packed[name]}
    assert {name.split(".")[2] for name in folded} == {"0", "1"}  # at 96 px later maps have fewer cells than channels
    narrow = {name for name in packed if name.startswith("vision_tower.stages.0.") and not name.endswith("mlp.down")}
    assert not any(packed[name] for name in narrow)
    assert all(packed[name] for name in packed if name not in folded | narrow)


BEHIND = {  # ways to change weights that torch does not count
    "scaled": lambda weight: weight.data.mul_(1.5),
    "an adapter merged": lambda weight: weight.data.add_(1e-3 * drawn(*weight.shape, seed=3)),
    "one row": lambda weight: weight.data[3].copy_(weight.data[4]),
}


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("how", BEHIND)
def test_weights_that_were_changed_behind_torch_are_packed_again(how, quantize, monkeypatch):
    monkeypatch.setattr(tiers, "SMALL", 0)
    speeds_of(monkeypatch, float32=2.0, float32_reordered=1.0)
    model = lively(tiny())
    tiers.accelerate(model, quantize)
    before = logits_of(model)
    for owner in {id(owner): owner for _, owner in model.packed}.values():
        BEHIND[how](owner.output_weight if owner is model.language else owner.weight)
    now = logits_of(model)
    fresh = copy.deepcopy(model)
    assert all(packed.made is None for packed, _ in fresh.packed)
    assert torch.equal(now, logits_of(fresh)) and rms(now, before) > 1e-4


@torch.inference_mode()
def test_a_span_of_outputs_has_the_values_of_the_whole():
    model = lively(tiny())
    states = drawn(5, model.config.text.d_model)
    for quantize in (None, "int8"):
        tiers.accelerate(model, quantize)
        part, whole = model.logits(states, (150, 1150)), model.logits(states)[:, 150:1150]
        assert rms(part, whole) < (1e-6 if quantize is None else 1e-7)
    assert torch.equal(part, whole)


def test_a_small_model_is_left_alone(monkeypatch):
    monkeypatch.setattr(tiers, "measure", None)
    model = lively(tiny())
    assert tiers.accelerate(model)["why"] == "a small model"
    assert not any(layer.bands for layer in model.modules() if isinstance(layer, Linear))


@pytest.mark.parametrize(
    "arguments, named",
    [
        (dict(quantize="int4"), "quantize: .*'int4'"),
        (dict(quantize="int8", keep=["tower"]), "keep: .*stage 1.*'tower'"),
        (dict(quantize="int8", keep="decoder"), "keep: expected a list of some of .*'decoder'"),
    ],
)
def test_what_is_no_tier_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        tiers.accelerate(lively(tiny()), **arguments)
    with pytest.raises(ValueError, match="quantize: int8 takes float32 weights, got dtype bfloat16"):
        tiers.accelerate(lively(tiny()).bfloat16(), "int8")


def test_a_machine_is_measured_once(home, monkeypatch):
    monkeypatch.setattr(tiers, "SHAPE", (64, 32))
    monkeypatch.setattr(tiers, "_disturbed", lambda *_: False)
    kinds = ["float32", "float32 reordered", "bfloat16", "int8"]
    first = tiers.measure(kinds, 1)
    for kind in kinds:
        for row in first.kinds[kind].values():
            assert 0 < row.ms < 1000 and row.error <= tiers.LARGEST_ERROR[kind.split()[0]]
    assert tiers.measure(kinds, 1) == first
    (file,) = home.iterdir()
    file.write_text('{"float32": 3}')
    assert tiers.measure(kinds, 1) != first
    assert set(json.loads(file.read_text())) == set(kinds)


SOUND = {name: [2.0, 2.0, 1e-7] for name in tiers.ROWS}
DAMAGED = {
    "no JSON": "{",
    "a list": "[]",
    "texts": json.dumps({"float32": dict.fromkeys(tiers.ROWS, "abc")}),
    "words": json.dumps({"float32": dict.fromkeys(tiers.ROWS, ["a", "b", "c"])}),
    "nothing": json.dumps({"float32": dict.fromkeys(tiers.ROWS, [0, 0, 0])}),
    "no numbers": json.dumps({"float32": dict.fromkeys(tiers.ROWS, [float("nan")] * 3)}),
    "below nothing": json.dumps({"float32": dict.fromkeys(tiers.ROWS, [-1.0, 1.0, 0.0])}),
    "one of three": json.dumps({"float32": {"one": [2.0, 2.0, 1e-7]}}),
    "no name": json.dumps({"": SOUND}),
    "no text": "\udcff",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_measurement_is_made_again(case, home, monkeypatch):
    monkeypatch.setattr(tiers, "SHAPE", (64, 32))
    monkeypatch.setattr(tiers, "_disturbed", lambda *_: False)
    path = tiers._record(1)
    path.parent.mkdir(parents=True)
    path.write_bytes(DAMAGED[case].encode("utf-8", "surrogateescape"))
    found = tiers.measure(["float32"], 1)
    assert all(0 < row.ms < 1000 and 0 < row.cpu_ms and row.error < 1e-5 for row in found.kinds["float32"].values())
    assert tiers.measure(["float32"], 1) == found  # and kept


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(tiers, "SHAPE", (64, 32))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tiers.Path, "home", none)
    assert tiers.measure(["float32"], 1).ms("float32", "one") > 0


def test_a_processor_without_the_product_of_a_type_is_left_plain(home, monkeypatch):
    """As torch has it for bfloat16 where the processor knows none: the reordering is refused by an error."""
    real = operators.has_reordered

    def refuses(weight, rows):
        raise RuntimeError(
            "mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx512bw, avx512vl and avx512dq"
        )

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuses, raising=False)
    real.cache_clear()
    try:
        monkeypatch.setattr(tiers, "SHAPE", (64, 32))
        monkeypatch.setattr(tiers, "SMALL", 0)
        model = lively(tiny()).bfloat16()
        told = tiers.accelerate(model)
        assert set(told["products"].values()) == {"plain"} and "no reordered product" in told["why"]
        assert tiers.measure(["bfloat16 reordered"], 1).ms("bfloat16 reordered", "one") > 0  # timed as what it falls to
        assert logits_of(model).isfinite().all()
    finally:
        monkeypatch.undo()
        real.cache_clear()


def test_threads_are_counted_by_the_tier_that_is_asked_for(monkeypatch):
    """float32 is sooner with all, int8 with one."""
    times = {("float32", 1): 4.0, ("float32", 3): 2.0, ("int8", 1): 1.0, ("int8", 3): 1.5}

    def timed(kinds, threads=None, again=False):
        rows = {k: dict.fromkeys(tiers.ROWS, tiers.Timed(times[k.split()[0], threads], 1.0, 0.0)) for k in kinds}
        return tiers.Speeds(threads, rows)

    monkeypatch.setattr(tiers, "measure", timed)
    monkeypatch.setattr(tiers.arguments, "processors", lambda: 3)
    assert tiers.thread_count("auto") == 3
    assert tiers.thread_count("auto", ["int8"]) == 1
    assert tiers.thread_count("auto", ["float32", "int8"]) == 1
    assert tiers.thread_count(2) == 2


def test_a_disturbed_measurement_is_not_kept(home, monkeypatch):
    monkeypatch.setattr(tiers, "SHAPE", (64, 32))
    monkeypatch.setattr(tiers, "_times", lambda calls: dict.fromkeys(calls, (3.0, 1.0)))
    tiers.measure(["float32"], 1)
    assert not home.exists()
    monkeypatch.setattr(tiers, "_times", lambda calls: dict.fromkeys(calls, (1.0, 1.0)))
    tiers.measure(["float32"], 1)
    assert len(list(home.iterdir())) == 1


GATED = {  # tiers.json -> what speed="fast" loads on a machine where int8 is the quickest and bfloat16 the next
    "nothing tried": (None, ("float32", None, ())),
    "int8 passed": ({"int8": {"passed": True, "keep": ["stage 1"]}}, (None, "int8", ("stage 1",))),
    "int8 refused": ({"int8": {"passed": False}, "bfloat16": {"passed": True}}, ("bfloat16", None, ())),
    "all refused": ({"int8": {"passed": False}, "bfloat16": {"passed": False}}, ("float32", None, ())),
}


@pytest.mark.parametrize("case", GATED)
def test_fast_is_what_the_gate_passed(case, tmp_path, monkeypatch):
    rows, (dtype, quantize, keep) = GATED[case]
    speeds_of(monkeypatch, float32=4.0, float32_reordered=3.0, bfloat16=2.5, bfloat16_reordered=2.0, int8=1.0)
    if rows is not None:
        (tmp_path / tiers.GATE).write_text(json.dumps({"weights_sha256": "a", "tiers": rows}))
    gate = tiers.gated(tmp_path, lambda: "a")
    found = tiers.quickest(gate)
    assert (found.dtype or ("float32" if not found.quantize else None), found.quantize, found.keep) == (
        dtype,
        quantize,
        keep,
    )
    assert found.why


SPOILT = {
    "a tier that is no row": ({"tiers": {"int8": True}}, "tiers: .* run florence2 quantize again"),
    "a group that is none": (
        {"weights_sha256": "a", "tiers": {"int8": {"passed": True, "keep": ["tower"]}}},
        "int8: keep: expected some of stage 1.*'tower'.*run florence2 quantize again",
    ),
    "groups that are no list": (
        {"weights_sha256": "a", "tiers": {"int8": {"passed": True, "keep": "decoder"}}},
        "int8: keep: expected .*'decoder'",
    ),
    "other weights": (
        {"weights_sha256": "b", "tiers": {"int8": {"passed": True}}},
        "is of other weights than those beside it",
    ),
    "no weights": ({"tiers": {"int8": {"passed": True}}}, "is of other weights than those beside it"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_damaged_gate_is_refused(case, tmp_path):
    data, named = SPOILT[case]
    (tmp_path / tiers.GATE).write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"tiers.json: .*{named}"):
        tiers.gated(tmp_path, lambda: "a")
