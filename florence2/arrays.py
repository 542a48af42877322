"""The arithmetic of a search step, on whatever arrays a model gives: numpy's here, torch's in `model/torch_arrays.py`.

What both kinds write alike is no part of it: `x[rows]`, `x + y`, `x.argmax(-1)`, `x.cumsum(-1)`, `x.tolist()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

MASKED = float("-inf")


class Arrays(Protocol):
    """Arrays of one library on one device. R rows, V columns."""

    def inference(self) -> AbstractContextManager[Any]:
        """Within it no gradient is kept."""
        ...

    def put(self, values: object) -> Any:
        """Numbers of the host as an array, without waiting for what a device computes at the time."""
        ...

    def constant(self, values: tuple[int, ...]) -> Any:
        """The same, made once for a device."""
        ...

    def floats(self, x: Any) -> Any:
        """As float32."""
        ...

    def copy(self, x: Any) -> Any: ...
    def zeros(self, *shape: int) -> Any:
        """float32."""
        ...

    def flags(self, count: int) -> Any:
        """(count,) bool, all False."""
        ...

    def arange(self, count: int) -> Any: ...
    def stack(self, parts: Sequence[Any]) -> Any: ...
    def concat(self, parts: Sequence[Any], axis: int) -> Any: ...
    def gather(self, x: Any, columns: Any) -> Any:
        """(R, K) of x (R, V) at columns (R, K)."""
        ...

    def topk(self, x: Any, count: int) -> tuple[Any, Any]:
        """The largest of each row, largest first, and their columns, (R, count) each."""
        ...

    def masked(self, x: Any, mask: Any) -> Any:
        """A copy of x that is -inf where mask is True."""
        ...

    def mask(self, x: Any, mask: Any) -> None:
        """Make x -inf where mask is True."""
        ...

    def mask_flat(self, x: Any, places: Any) -> None:
        """Make x (R, V) -inf at places, counted over all rows."""
        ...

    def logsumexp(self, x: Any) -> Any:
        """(R, 1) of (R, V)."""
        ...

    def log_softmax(self, x: Any) -> Any: ...
    def into_exp(self, x: Any) -> Any:
        """e to the x, in x's own memory."""
        ...

    def nansum(self, x: Any) -> Any:
        """(R, 1) of (R, V)."""
        ...

    def host(self, x: Any) -> np.ndarray:
        """As numpy's array: waits for the device."""
        ...

    def waits(self) -> bool:
        """Whether to look at a number is to wait for a device."""
        ...


class NumpyArrays:
    """Numpy's arrays."""

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def put(self, values: object) -> np.ndarray:
        array: np.ndarray = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return array

    def constant(self, values: tuple[int, ...]) -> np.ndarray:
        return np.asarray(values)

    def floats(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float32)

    def copy(self, x: np.ndarray) -> np.ndarray:
        return np.array(x)

    def zeros(self, *shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def flags(self, count: int) -> np.ndarray:
        return np.zeros(count, bool)

    def arange(self, count: int) -> np.ndarray:
        return np.arange(count)

    def stack(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(parts)

    def concat(self, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(parts, axis)

    def gather(self, x: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, columns, 1)

    def topk(self, x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        best = np.argpartition(x, -count, 1)[:, -count:]
        order = np.argsort(-np.take_along_axis(x, best, 1), 1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        return np.take_along_axis(x, best, 1), best

    def masked(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, np.float32(MASKED), x)

    def mask(self, x: np.ndarray, mask: np.ndarray) -> None:
        x[mask] = MASKED

    def mask_flat(self, x: np.ndarray, places: np.ndarray) -> None:
        x.reshape(-1)[places] = MASKED

    def logsumexp(self, x: np.ndarray) -> np.ndarray:
        most = x.max(1, keepdims=True)
        return np.asarray(most + np.log(np.exp(x - most).sum(1, keepdims=True)), np.float32)

    def log_softmax(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x - self.logsumexp(x))

    def into_exp(self, x: np.ndarray) -> np.ndarray:
        np.exp(x, out=x)
        return x

    def nansum(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.nansum(x, 1, keepdims=True))

    def host(self, x: np.ndarray) -> np.ndarray:
        return x

    def waits(self) -> bool:
        return False
