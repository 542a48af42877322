"""Greedy steps in runs: many tokens of every row between two looks of the host, all of one shape.

On a GPU a run is recorded once as a CUDA graph and played again; on a processor the same steps are run as they are. A
run takes the likeliest token at each step, or the one that was given for it; whether those are the tokens that the
rules would have chosen is for whoever reads them (`decoding.run_search`), who then says how far each row got.

R rows, S steps of a run, C d_model, F measures. Recorded runs are kept by their shapes, rows and lengths rounded up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from florence2.model.bart import EncoderDecoder
from florence2.model.cache import Cache, FixedKeys
from florence2.model.device import put

STEPS = 8  # of a run; measured nowhere yet but on a processor
ROOM = 64  # tokens that a row begins with; doubled
WIDTH = 64  # encoder positions are padded to a multiple of it
KEPT = 8  # recorded runs of different shapes

Measured = Callable[[Tensor, Tensor], Tensor]
"""Logits (R, V) and ids taken (R, 1) to measures (R, 1, F)."""

log = logging.getLogger(__name__)


class StaticRuns:
    """Rows of one shape, their cache in memory that never moves, and the recorded run over it."""

    steps = STEPS

    def __init__(self, language: EncoderDecoder, cache: Cache, key: object, measured: Measured) -> None:
        self.language, self.measured = language, measured
        rows, width = rows_of(cache.rows), width_of(cache)
        keys = cache.cross[0][0]
        shape = rows, keys.shape[1], width, keys.shape[3]
        self.cross = [(keys.new_zeros(shape), keys.new_zeros(shape)) for _ in cache.cross]
        self.mask = keys.new_zeros(rows, 1, 1, width)
        self.given = torch.full((STEPS, rows), -1, device=keys.device)
        self.inputs = torch.zeros(rows, dtype=torch.int64, device=keys.device)
        self.shape = _shape(cache, key)
        self.room = ROOM
        self._recorded: tuple[Any, tuple[Tensor, Tensor, Tensor]] | None = None
        self._make_cache()

    def fill(self, cache: Cache) -> None:
        """Take in what a cache of new samples, one row each, holds of the encoder."""
        length = cache.cross[0][0].shape[2]
        self.mask.fill_(float("-inf"))
        self.mask[:, :, :, :1] = 0.0  # rows that are none attend to something
        self.mask[: cache.rows, :, :, :length] = 0.0 if cache.mask is None else cache.mask
        for own, given in zip(self.cross, cache.cross):
            for buffer, tensor in zip(own, given):
                buffer[: cache.rows, :, :length].copy_(tensor)
        self.own.rewind([0] * len(self.inputs))

    def run(self, inputs: Sequence[int], given: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """S steps from each row's next input: ids taken (S, R), states (S, R, C), measures (S, R, F).

        `given` (S, R): the id to take at a step, or -1 for the likeliest. The next run writes over what is returned.
        """
        if max(self.own.lengths) + STEPS > self.room:
            self._grow()
        missing = len(self.inputs) - len(inputs)
        device = self.inputs.device
        self.inputs.copy_(put([*inputs, *[0] * missing], device))
        self.given.copy_(put([[*row, *[-1] * missing] for row in given], device))
        if device.type == "cuda" and self._recorded is None and not self._refused:
            self._record()
        if self._recorded is not None:
            graph, out = self._recorded
            graph.replay()
            return out
        return self._steps()

    def rewind(self, lengths: Sequence[int]) -> None:
        """How many tokens of each row are right; rows that have ended, and those that are none, begin again."""
        self.own.rewind([*lengths, *[0] * (len(self.inputs) - len(lengths))])

    def _steps(self) -> tuple[Tensor, Tensor, Tensor]:
        ids, taken, states, measures = self.inputs, [], [], []
        for step in range(STEPS):
            x = self.language.next_states(ids, self.cache)
            logits = self.language.logits(x).float()
            ids = torch.where(self.given[step] >= 0, self.given[step], logits.argmax(-1))
            taken.append(ids)
            states.append(x)
            measures.append(self.measured(logits, ids[:, None])[:, 0])
        return torch.stack(taken), torch.stack(states), torch.stack(measures)

    def _record(self) -> None:
        """Record a run; where that fails the steps are run one by one, which is slower and as right."""
        lengths = list(self.own.lengths)
        try:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # once without, so that libraries have made what they keep
                self._steps()
            torch.cuda.current_stream().wait_stream(stream)
            self.own.rewind(lengths)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may compute meanwhile
                out = self._steps()
            self._recorded = graph, out
        except RuntimeError as error:
            self._refused = True
            log.warning("a run of steps could not be recorded as a CUDA graph, they run one by one: %.200s", error)
        self.own.rewind(lengths)

    def _make_cache(self) -> None:
        keys = self.cross[0][0]
        rows, heads, _, width = keys.shape
        self.own = FixedKeys(len(self.cross), rows, heads, width, keys, self.room, rows)
        self.cache = Cache(self.cross, self.mask, self.own)
        self._recorded = None
        self._refused = False

    def _grow(self) -> None:
        """Twice the room, what is there copied."""
        before = self.own
        stored, lengths = before.stored(), list(before.lengths)
        self.room *= 2
        self._make_cache()
        self.own.store[:, :, :, :, : stored.shape[4]] = stored
        self.own.rewind(lengths)


class RunPool:
    """Recorded runs that nobody uses, by shape. A copy of a model begins without any."""

    def __init__(self) -> None:
        self.idle: list[StaticRuns] = []
        self._lock = threading.Lock()

    def take(self, language: EncoderDecoder, cache: Cache, key: object, measured: Measured) -> StaticRuns:
        """Runs over the rows of a cache at its beginning, recorded before where there are such; `key` says what is
        measured."""
        with self._lock:
            found = next((one for one in self.idle if one.shape == _shape(cache, key)), None)
            if found is not None:
                self.idle.remove(found)
        if found is None:
            found = StaticRuns(language, cache, key, measured)
        found.fill(cache)
        return found

    def give_back(self, runs: StaticRuns) -> None:
        """Keep them for requests of the same shape."""
        with self._lock:
            self.idle = [*self.idle, runs][-KEPT:]

    def __deepcopy__(self, memo: object) -> RunPool:
        return RunPool()

    def __reduce__(self) -> tuple[type[RunPool], tuple[()]]:
        return RunPool, ()


def rows_of(rows: int) -> int:
    """So many rows as a recorded run has: the next power of two."""
    return 1 << (rows - 1).bit_length()


def width_of(cache: Cache) -> int:
    """So many encoder positions as a recorded run has."""
    return -(-cache.cross[0][0].shape[2] // WIDTH) * WIDTH


def _shape(cache: Cache, key: object) -> object:
    keys = cache.cross[0][0]
    return rows_of(cache.rows), width_of(cache), keys.dtype, keys.device, key
