"""What the engine runs: specialists that annotate, filters that judge, and how their work is named.

Knows records only: no store, no process, no library of any specialist. The runner reads `Spec`; nothing else does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from florence2.records import Decision, Result, Sample

# What a specialist may say it produces; a requirement names one of them, a whole family, or one of GROUPS.
PRODUCTS = (
    "text/brief",
    "text/detailed",
    "text/more_detailed",
    "text/ocr",
    "text/answer",
    "region_text/object",
    "region_text/ocr",
    "region_text/mask",
    "region_text/description",
    "text_phrase_region",
)
GROUPS = {
    "*": PRODUCTS,
    "box": ("region_text/object", "region_text/ocr"),
    "text/caption": ("text/brief", "text/detailed", "text/more_detailed"),
}


@dataclass(frozen=True)
class Spec:
    """What an operator declares; name and version go into its fingerprint and into the source of what it writes."""

    name: str
    version: str
    produces: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    batch_size: int = 8
    num_gpus: float = 0
    num_cpus: float = 1
    memory_gb: float = 0  # what a worker that holds it takes at the most; 0: not known
    deterministic: bool = True
    billed: bool = False
    max_pixels: int = 64_000_000
    source_kind: str = "specialist"  # or "simulated", or "model" for the student
    reads_all: bool = False  # rejected annotations too; else those kept when it runs


class Fingerprinted(Protocol):
    """What distinguishes two operators: `fingerprint` hashes all of it."""

    @property
    def spec(self) -> Spec:
        """What it declares."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Every setting that changes its output, as plain JSON types."""

    @property
    def weights_sha256(self) -> str:
        """The hash of its weights' files, "" without any."""


@runtime_checkable
class Specialist(Fingerprinted, Protocol):
    """Annotates pictures. Opening one is cheap and loads nothing; `setup` loads, once per worker process."""

    def setup(self, device: str) -> None:
        """Load what it needs onto `device` ("cpu", "cuda")."""

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One Parsed or Failure for each sample, in order; images are upright HWC uint8 RGB.

        Ids inside a Parsed are names local to it; a name not in it is an id of the sample.
        """

    def close(self) -> None:
        """Release what `setup` loaded."""


@runtime_checkable
class Filter(Fingerprinted, Protocol):
    """Judges annotations. It sees what is kept of a sample so far, and answers kept or rejected, at most once an item.

    An item it does not name stays as it is. The runner stamps rule (the spec's name), round and seq.
    """

    def judge(self, sample: Sample) -> Sequence[Decision]:
        """The verdicts on this sample's items."""


@dataclass(frozen=True)
class OperatorInput:
    """One run whose annotations an operator reads: its fingerprint and round."""

    fingerprint: str
    round: int


def fingerprint(operator: Fingerprinted, reads: Iterable[OperatorInput] = ()) -> str:
    """32 hex digits that change when the operator's name, version, settings, weights or input changes."""
    spec = operator.spec
    inputs = sorted((r.fingerprint, r.round) for r in reads)
    return digest([spec.name, spec.version, dict(operator.config), operator.weights_sha256, inputs])


def run_id(operator_fingerprint: str, round: int) -> str:
    """The name of one operator's work in one round, whatever command asked for it."""
    return digest(["run", operator_fingerprint, round], size=8)


def unit_id(image_ids: Iterable[str], operator_fingerprint: str, round: int) -> str:
    """The name of one unit of work: these pictures, this operator, this round."""
    return digest([sorted(image_ids), operator_fingerprint, round])


def retry_id(image_ids: Iterable[str], operator_fingerprint: str, round: int, number: int) -> str:
    """The name of the `number`-th try (from the second on) at pictures of a unit that failed before."""
    return digest([sorted(image_ids), operator_fingerprint, round, number])


def annotation_id(image_id: str, operator_fingerprint: str, round: int, ordinal: int) -> str:
    """The id of the `ordinal`-th annotation of a picture in a run: the same on every retry, whatever the unit."""
    return digest([image_id, operator_fingerprint, round, ordinal], size=12)


def annotation_ids(image_id: str, operator_fingerprint: str, round: int, count: int) -> list[str]:
    """`annotation_id` of the first `count` annotations of a picture, what they have in common hashed once."""
    stem = hashlib.blake2b(_canonical([image_id, operator_fingerprint, round])[:-1], digest_size=12)
    out = []
    for ordinal in range(count):
        value = stem.copy()
        value.update(b",%d]" % ordinal)
        out.append(value.hexdigest())
    return out


def satisfies(produces: Iterable[str], requires: Iterable[str]) -> bool:
    """Whether an operator that produces these is one that an operator with these requirements reads."""
    wanted = {name for r in requires for name in GROUPS.get(r, (r,))}
    return any(p == w or p.startswith(w + "/") for p in produces for w in wanted) or ("*" in requires)


def digest(value: Any, size: int = 16) -> str:
    """Hex BLAKE2b of a plain value, written as canonical JSON."""
    return hashlib.blake2b(_canonical(value), digest_size=size).hexdigest()


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return text.encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a setting must be a plain JSON value, got {type(value).__name__}")
