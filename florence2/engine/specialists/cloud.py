"""What every cloud specialist needs: HTTP with retries, a rate limit, a budget, and answers kept by content.

An answer is kept under the hash of the service, its settings and the picture's bytes, so that no retry and no second
run is billed twice. Standard library only; the next cloud service is a file that builds a request and reads an answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from florence2.atomic_files import write_atomic
from florence2.labels import one_line
from florence2.records import Failure, Parsed, Result, Sample
from florence2.structuring import parse_json

RETRIED = (408, 429, 500, 502, 503, 504)  # the answers after which asking again may help


class CloudError(ValueError):
    """A service did not answer; `reason` is one word that can be counted."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Cloud:
    """One service: how often it may be asked, how long and how many times, and what an answer costs.

    With a `cache` folder what was spent is counted there, over all processes and runs; without one, in this process.
    """

    name: str
    per_second: float = 10.0
    attempts: int = 5
    timeout_s: float = 30.0
    cost: float = 0.0  # of one answer, in the currency of the budget
    budget: float = float("inf")
    cache: str | Path | None = None  # "": none; ~ is the user's folder
    first_wait_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    asked: int = 0  # requests sent, the ones that failed among them
    paid: int = 0  # answers paid for by this process
    _next: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        self.cache = Path(self.cache).expanduser() if self.cache else None

    def each(
        self, samples: Sequence[Sample], images: Sequence[np.ndarray], ask: Callable[[Sample, np.ndarray], Parsed]
    ) -> list[Result]:
        """One request a picture, in order; where the service does not answer, a Failure for that picture."""
        results: list[Result] = []
        for index, (sample, image) in enumerate(zip(samples, images)):
            try:
                results.append(ask(sample, image))
            except CloudError as error:
                results.append(Failure(index, sample.id, sample.image.uri, error.reason, error.detail))
        return results

    def ask(self, url: str, body: bytes, headers: Mapping[str, str], key: str) -> Any:
        """The service's JSON answer: a kept one, else a paid one; CloudError says why there is none."""
        name = hashlib.sha256(f"{self.name}|{key}".encode()).hexdigest()
        path = Path(self.cache) / f"{name}.json" if self.cache else None
        if path is not None and path.is_file():
            return parse_json(path.read_text(encoding="utf-8"))
        if self.spent + self.cost > self.budget:
            spending = f"{self.spent:.4g} of {self.budget:.4g} spent, one more answer costs {self.cost:.4g}"
            where = f" (all that {self.cache} holds)" if self.cache else ""
            raise CloudError("budget", f"{self.name}: {spending}{where}; set a higher budget in a card")
        answer = self._try(urllib.request.Request(url, body, dict(headers), method="POST"))
        self.paid += 1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._tally.open("ab") as tally:
                tally.write(b".")  # a byte an answer: appended whole, whoever else appends
            write_atomic(path, json.dumps(answer))
        return answer

    @property
    def spent(self) -> float:
        """What all answers so far cost."""
        paid = self._tally.stat().st_size if self.cache is not None and self._tally.is_file() else self.paid
        return paid * self.cost

    @property
    def _tally(self) -> Path:
        assert self.cache is not None
        return Path(self.cache) / f"{self.name}.paid"

    def _try(self, request: urllib.request.Request) -> Any:
        error = CloudError("unreachable", "never asked")
        for attempt in range(self.attempts):
            self._wait_turn()
            self.asked += 1
            wait = self.first_wait_s * 2**attempt * random.uniform(0.5, 1.5)  # backoff with jitter
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                    return parse_json(response.read())
            except urllib.error.HTTPError as answer:
                detail = f"{self.name}: HTTP {answer.code}: {_service_message(answer)}"
                if answer.code not in RETRIED:
                    raise CloudError("denied" if answer.code in (401, 403) else "refused", detail) from None
                error = CloudError("throttled" if answer.code == 429 else "unavailable", detail)
                wait = _retry_after(answer.headers.get("Retry-After"), wait)
            except json.JSONDecodeError:
                error = CloudError("garbled", f"{self.name}: expected JSON, got something else")
            except OSError as failure:
                error = CloudError("unreachable", f"{self.name}: {failure}")
            if attempt + 1 < self.attempts:
                self.sleep(wait)
        raise error

    def _wait_turn(self) -> None:
        now = self.clock()
        if now < self._next:
            self.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.per_second


def key_of(variable: str, service: str) -> str:
    """A key from the environment; ValueError says which variable to set. It is never written anywhere."""
    key = os.environ.get(variable, "")
    if not key:
        raise ValueError(f"{service}: expected the service's key in the environment variable {variable}, found none")
    return key


def _retry_after(value: str | None, otherwise: float) -> float:
    try:
        return min(max(float(value or ""), 0.0), 120.0)
    except ValueError:
        return otherwise


def _service_message(answer: urllib.error.HTTPError) -> str:
    """The service's own message, shortened."""
    try:
        body = answer.read(4000).decode("utf-8", "replace")
    except OSError:
        return str(answer.reason)
    try:
        error = parse_json(body).get("error", {})
        body = f"{error.get('code', '')} {error.get('message', '')}" if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        pass
    return one_line(body)
