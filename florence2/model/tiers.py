"""How a model's products are computed on this machine: a short measurement, a choice, and the choice applied.

    float32    exact, the default; oneDNN's reordered weights where they were measured to be quicker
    bfloat16   asked for by dtype
    int8       asked for by quantize, on float32 weights; layers of `keep` stay as they are

A measurement of speed and error decides, never a processor's name. It takes about a second, once for a machine, a torch
and a number of threads, and is kept in a file. Small models are left as they are: there is nothing to gain.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from florence2 import arguments
from florence2.atomic_files import write_atomic
from florence2.cache_folder import cache_folder
from florence2.model.attention import attention_by_products
from florence2.model.bart import Attention
from florence2.model.florence import Florence
from florence2.model.linear import MANY, Bands, Linear
from florence2.model.operators import Int8, Packed, Reordered, has_int8, has_reordered, plain
from florence2.model.tensor_files import read_json
from florence2.structuring import brief, parse_json

ROWS = {"one": 1, "few": 8, "many": 577}
"""What a decoding step of one answer, of a batch, and what an encoder multiplies; bands end at 3 and at 64 rows."""
ATTENTION_ROWS = {"one": 1, "few": 8}
"""Answers whose next token attends to a picture."""
ATTENTION_SHAPE = (12, 591, 64)  # heads, keys, width: the published base size's
BAND_ENDS = (3, 64, MANY)
COST = {"many": 100, "one": 2000}  # products of this size in one detection by the base size, about
QUICKER_TIERS = ("bfloat16", "int8")
GATE = "tiers.json"  # beside the weights: which tiers the gate has passed, and their figures
SHAPE = (3072, 768)  # the published base size's largest layer
SMALL = 512  # models narrower than this are left as they are
LEAST_INT8 = 256  # inputs of a layer; with fewer, making int8 of them takes what the product gains
QUICKER = 1.1  # worth a second copy of the weights
LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 2e-2}  # relative rms of one product
GROUPS = {  # part of the model -> prefixes of its layers
    **{f"stage {s + 1}": (f"vision_tower.stages.{s}.",) for s in range(4)},
    "projector": ("projector.",),
    "encoder": ("language.encoder.",),
    "decoder": ("language.decoder.",),
    "output": ("output",),
}


@dataclass(frozen=True)
class Tier:
    """What to load a model as: dtype or quantize, the GROUPS that int8 leaves alone, and why."""

    quantize: str | None = None
    dtype: str | torch.dtype | None = None
    keep: tuple[str, ...] = ()
    why: str = ""


class Timed(NamedTuple):
    """One product: the least wall and processor milliseconds of some runs, and its relative rms error."""

    ms: float
    cpu_ms: float
    error: float


@dataclass(frozen=True)
class Speeds:
    """Products as they were timed: kind -> of ROWS -> Timed."""

    threads: int
    kinds: dict[str, dict[str, Timed]] = field(default_factory=dict)

    def ms(self, kind: str, rows: str) -> float:
        """Infinite where the kind is not here or not right."""
        found = self.kinds.get(kind, {}).get(rows)
        return found.ms if found and found.error <= LARGEST_ERROR[kind.split()[0]] else float("inf")

    def quickest(self, dtype: str, rows: str) -> str:
        """ "reordered" where it gains enough, else "plain"."""
        return "reordered" if self._gain(dtype, f"{dtype} reordered", rows) >= QUICKER else "plain"

    def attends_by_products(self, dtype: str) -> bool:
        """Whether a decoding step's attention gains enough as two products."""
        kinds = f"{dtype} attention", f"{dtype} attention by products"
        return min(self._gain(*kinds, rows) for rows in ATTENTION_ROWS) >= QUICKER

    def _gain(self, kind: str, other: str, rows: str) -> float:
        """How many times as fast the other is, by the clock and by processor time; 0 where it is not right."""
        if self.ms(other, rows) == float("inf"):
            return 0.0
        one, two = self.kinds[kind][rows], self.kinds[other][rows]
        return min(one.ms / two.ms, one.cpu_ms / two.cpu_ms)


def measure(kinds: Sequence[str], threads: int | None = None, again: bool = False) -> Speeds:
    """Time and check products, from the file where this machine has been measured before, unless asked for again."""
    threads = threads or torch.get_num_threads()
    path = _record(threads)
    known = _measured_before(path) if path else {}
    if again or not set(kinds) <= set(known):
        known |= _measure(kinds, threads)
        if path and not _disturbed(known, kinds, threads):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, json.dumps(known))
            except OSError:
                pass  # for this process only
    return Speeds(threads, {kind: known[kind] for kind in kinds})


def accelerate(model: Florence, quantize: str | None = None, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Choose how the model's layers multiply, and let them; what was chosen and why, as `Florence2.info` gives it.

    `keep` names GROUPS that int8 leaves in float32. Off a CPU everything stays as it is.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    check(quantize, dtype, model.device)
    if isinstance(keep, str):
        raise ValueError(f"keep: expected a list of some of {', '.join(GROUPS)}, got {keep!r:.40}")
    if unknown := [name for name in keep if name not in GROUPS]:
        raise ValueError(f"keep: expected some of {', '.join(GROUPS)}, got {unknown[0]!r:.40}")
    if model.device.type != "cpu":
        return {"tier": dtype, "products": {}, "why": f"on {model.device.type} the layers stay as they are"}
    is_small = model.config.text.d_model < SMALL
    by_products, attention_why = (False, "") if is_small or dtype == "float16" else _attention(dtype)
    if quantize:
        found = {name: "float32" if name in keep else "int8" for name in GROUPS}
        why = "asked for by quantize" + ("" if has_int8() else "; torch has no int8 product here: slow")
    elif is_small or not has_reordered(model.dtype):
        found = dict.fromkeys(GROUPS, "plain")
        why = "a small model" if is_small else "no reordered product here for this type"
    else:
        speeds = measure([dtype, f"{dtype} reordered"])
        chosen = [speeds.quickest(dtype, rows) for rows in ROWS]
        found = {name: "/".join(chosen) if name in ("decoder", "output") else chosen[-1] for name in GROUPS}
        times = [(rows, speeds.ms(dtype, name), speeds.ms(f"{dtype} reordered", name)) for name, rows in ROWS.items()]
        why = "; ".join(f"{rows} rows: plain {ms:.3g}, reordered {other:.3g} ms" for rows, ms, other in times)
    model.packed = []
    for name, kind in found.items():
        _apply(model, name, kind)
    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.by_products = by_products
    attention = "two products" if by_products else "torch's own"
    return {"tier": quantize or dtype, "products": found, "attention": attention, "why": why + attention_why}


def _attention(dtype: str) -> tuple[bool, str]:
    """Whether a decoding step's attention is computed by two products, and why."""
    kinds = f"{dtype} attention", f"{dtype} attention by products"
    speeds = measure(kinds)
    times = [
        f"{rows} row{'s' if rows > 1 else ''}: torch's {speeds.ms(kinds[0], name):.3g}, two products "
        f"{speeds.ms(kinds[1], name):.3g} ms"
        for name, rows in ATTENTION_ROWS.items()
    ]
    return speeds.attends_by_products(dtype), f"; attention of {', '.join(times)}"


def check(quantize: str | None, dtype: str, device: torch.device) -> None:
    """Refuse what is no tier, and int8 where it cannot be computed."""
    if quantize is None:
        return
    if quantize != "int8":
        raise ValueError(f"quantize: expected None or 'int8', got {quantize!r:.40}")
    if device.type != "cpu":
        raise ValueError(f"quantize: int8 runs on a CPU, the model is on {device}; load it with device='cpu'")
    if dtype != "float32":
        raise ValueError(f"quantize: int8 takes float32 weights, got dtype {dtype}; leave dtype out")


@dataclass(frozen=True)
class Gated:
    """What the gate decided of a checkpoint's tiers."""

    good: tuple[str, ...] = ()
    """The quicker tiers that it passed."""
    refused: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    """The GROUPS that int8 leaves in float32, where it passed."""
    without: str = f"no {GATE} beside the weights: float32; florence2 quantize tries the quicker tiers"
    """Why nothing was decided, where that is so."""

    @property
    def why(self) -> str:
        if not self.good and not self.refused:
            return self.without
        refused = f", refused {', '.join(self.refused)}" if self.refused else ""
        return f"{GATE} passed {', '.join(self.good) or 'no tier'}{refused}"


def gated(folder: Path, weights_sha256: Callable[[], str]) -> Gated:
    """The gate's verdicts, from the tiers.json of a folder; ValueError where it is damaged, or of other weights."""
    path = folder / GATE
    if not path.is_file():
        return Gated()
    data = read_json(path)
    rows = data.get("tiers")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) and "passed" in row for row in rows.values()):
        raise ValueError(f"{path}: tiers: expected an object of tiers with 'passed'; run florence2 quantize again")
    good = tuple(name for name, row in rows.items() if row["passed"] is True and name in QUICKER_TIERS)
    keep = rows["int8"].get("keep", []) if "int8" in good else []
    if not isinstance(keep, list) or not all(name in GROUPS for name in keep):
        raise ValueError(
            f"{path}: tiers: int8: keep: expected some of {', '.join(GROUPS)}, got {brief(keep)}; "
            "run florence2 quantize again"
        )
    if data.get("weights_sha256") != weights_sha256():
        raise ValueError(
            f"{path}: is of other weights than those beside it; run florence2 quantize on this checkpoint, or remove it"
        )
    return Gated(good, tuple(name for name in rows if name not in good), tuple(keep))


def quickest(found: Gated) -> Tier:
    """The quickest tier on this machine of those that the gate passed, and float32."""
    names = ("float32", *found.good)
    speeds = measure(_kinds(names))
    best = min(names, key=lambda name: _cost(speeds, name))
    why = f"{found.why}; the quickest here is {best}" if found.good else found.why
    if best == "int8":
        return Tier(quantize="int8", keep=found.keep, why=why)
    return Tier(dtype=None if best == "float32" else best, why=why)


def thread_count(threads: int | str, names: Sequence[str] = ("float32",)) -> int:
    """A number of threads as asked for, or "auto": one or all, whichever answers a detection sooner in a tier."""
    if threads == "auto":
        return best_threads(names)
    most = arguments.MOST_THREADS
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise ValueError(f"threads: expected a number of at least 1, at most {most}, or 'auto', got {threads!r:.40}")
    return threads


def best_threads(names: Sequence[str] = ("float32",)) -> int:
    """One thread or all: whichever answers a detection sooner, by products of its size, in the quickest of tiers."""
    cost = {}
    for count in {1, arguments.processors()}:
        speeds = measure(_kinds(names), count)
        cost[count] = min(_cost(speeds, name) for name in names)
    return min(cost, key=lambda count: cost[count])


def _kinds(names: Sequence[str]) -> list[str]:
    return [kind for name in names for kind in (name, f"{name} reordered") if kind != "int8 reordered"]


def _cost(speeds: Speeds, name: str) -> float:
    """Milliseconds of a detection's products in a tier, about."""
    return sum(weight * min(speeds.ms(kind, rows) for kind in _kinds([name])) for rows, weight in COST.items())


def _apply(model: Florence, group: str, kind: str) -> None:
    if group == "output":
        model.language.output_bands = _bands(kind)
        model.packed += [(packed, model.language) for packed in _packed(model.language.output_bands)]
        return
    # a small model is asked to be int8 for its error's sake
    every = kind != "int8" or model.config.text.d_model < SMALL
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and name.startswith(GROUPS[group]):
            slower = not every and (layer.in_features < LEAST_INT8 or _is_folded(model, name))
            layer.bands = () if slower else _bands(kind)
            model.packed += [(packed, layer) for packed in _packed(layer.bands)]


def _packed(bands: Bands) -> list[Packed]:
    return [packed for _, packed in bands if packed is not None]


def _is_folded(model: Florence, name: str) -> bool:
    """Whether the layer is one of a channel attention that float32 folds into products of half the work."""
    part = name.split(".")  # vision_tower.stages.S.blocks.B.channel.attention...
    if part[0] != "vision_tower" or part[5:7] != ["channel", "attention"]:
        return False
    config, stage = model.config, int(part[2])
    width, height = config.map_size_wh
    cells = width * height * 4 ** (len(config.vision.dims) - 1 - stage)
    return bool(cells > 2 * config.vision.dims[stage])


def _bands(kind: str) -> Bands:
    """ "int8", "plain", "reordered", or one of the latter two for each of ROWS."""
    makers: Mapping[str, Callable[[int], Packed | None]] = {
        "int8": lambda rows: Int8(),
        "reordered": Reordered,
        "plain": lambda rows: None,
        "float32": lambda rows: None,
    }
    kinds = kind.split("/")
    if len(kinds) == 1:
        packed = makers[kind](ROWS["many"])
        return () if packed is None else ((MANY, packed),)
    one, few, many = (makers[k](rows) for k, rows in zip(kinds, ROWS.values()))
    if kinds[1] == kinds[2]:
        few = many  # as quick for few rows, and no third copy of the weight
    return tuple(zip(BAND_ENDS, (one, few, many)))


def _measure(kinds: Sequence[str], threads: int) -> dict[str, dict[str, Timed]]:
    """All kinds in turn, so that what disturbs the machine disturbs all of them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*SHAPE, generator=generator) * SHAPE[1] ** -0.5
    bias = torch.randn(SHAPE[0], generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found: dict[str, dict[str, Timed]] = {kind: {} for kind in kinds}
    try:
        with torch.inference_mode():
            if products := [kind for kind in kinds if _rows_of(kind) is ROWS]:
                for name, rows in ROWS.items():
                    x = torch.randn(rows, SHAPE[1], generator=generator)
                    calls = {kind: _product(kind, x, weight, bias) for kind in products}
                    _time(calls, plain(x.double(), weight.double(), bias.double()), name, found)
            if attentions := [kind for kind in kinds if _rows_of(kind) is ATTENTION_ROWS]:
                heads, length, width = ATTENTION_SHAPE
                for name, rows in ATTENTION_ROWS.items():
                    shapes = [(rows, heads, n, width) for n in (1, length, length)]
                    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
                    calls = {kind: _attending(kind, inputs) for kind in attentions}
                    queries, keys, values = (x.double() for x in inputs)
                    _time(calls, attention_by_products(queries, keys, values), name, found)
    finally:
        torch.set_num_threads(before)
    return found


def _time(
    calls: Mapping[str, Callable[[], Tensor]], expected: Tensor, name: str, found: dict[str, dict[str, Timed]]
) -> None:
    for kind, (ms, cpu_ms) in _times(calls).items():
        gap = calls[kind]().double() - expected
        error = gap.square().mean().sqrt() / expected.square().mean().sqrt()
        found[kind][name] = Timed(ms, cpu_ms, float(error))


def _rows_of(kind: str) -> dict[str, int]:
    return ATTENTION_ROWS if " attention" in kind else ROWS


def _attending(kind: str, inputs: Sequence[Tensor]) -> Callable[[], Tensor]:
    queries, keys, values = (x.to(getattr(torch, kind.split()[0])) for x in inputs)
    if kind.endswith("by products"):
        return lambda: attention_by_products(queries, keys, values)
    return lambda: F.scaled_dot_product_attention(queries, keys, values)


def _product(kind: str, x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    dtype, _, form = kind.partition(" ")
    if dtype != "int8":
        x, weight, bias = (t.to(getattr(torch, dtype)) for t in (x, weight, bias))
    packed = Int8() if dtype == "int8" else Reordered(len(x)) if form else None
    return (lambda: plain(x, weight, bias)) if packed is None else (lambda: packed(x, weight, bias))


def _times(calls: Mapping[str, Callable[[], Tensor]]) -> dict[str, tuple[float, float]]:
    """The least milliseconds of each call by the clock and by the processor; six rounds or a fifth of a second."""
    for call in calls.values():
        call()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end or any(len(row) < 6 for row in rows.values()):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            rows[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu) or 1e-6))
    return {name: (min(wall for wall, _ in row), min(cpu for _, cpu in row)) for name, row in rows.items()}


def _measured_before(path: Path) -> dict[str, dict[str, Timed]]:
    """The kinds of a file that were measured whole; none of a file that is not there, or not ours."""
    found: dict[str, dict[str, Timed]] = {}
    try:
        for kind, rows in parse_json(path.read_text(encoding="utf-8")).items():
            timed = {name: Timed(*(float(value) for value in rows[name])) for name in _rows_of(kind)}
            if kind.split()[0] in LARGEST_ERROR and all(map(_is_sound, timed.values())):
                found[kind] = timed
    except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError):
        return {}
    return found


def _is_sound(timed: Timed) -> bool:
    return all(map(math.isfinite, timed)) and timed.ms > 0 and timed.cpu_ms > 0 and timed.error >= 0


def _disturbed(found: Mapping[str, Mapping[str, Timed]], kinds: Sequence[str], threads: int) -> bool:
    """Whether others used the machine: what takes far longer by the clock than by the processor is not kept."""
    rows = [found[kind]["many"] for kind in kinds if "many" in found[kind]]
    return any(row.ms > 1.5 * row.cpu_ms / threads for row in rows)


def _record(threads: int) -> Path | None:
    """The file of this machine's measurement; None where the user has no folder for it."""
    facts = [torch.__version__, torch.backends.cpu.get_cpu_capability(), platform.machine(), _processor(), str(threads)]
    try:
        folder = cache_folder()
    except RuntimeError:  # no home
        return None
    return folder / f"products-{hashlib.blake2b(chr(0).join(facts).encode(), digest_size=8).hexdigest()}.json"


def _processor() -> str:
    """What distinguishes this machine from others: its processor's line and flags, as far as the system states them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
