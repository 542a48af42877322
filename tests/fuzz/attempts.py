"""What every part of the fuzzing shares: one attempt, its limits of time and memory, and the table of what was tried.

A part is a module with `attempts(seed) -> Iterator[Attempt]`, endless, the same for a seed; `PARTS` names them.
"""

import importlib
import logging
import resource
import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

_NAMES = "labels pictures tars tables stores sealed_stores checkpoints answers generated"
PARTS = {name: f"tests.fuzz.{name}" for name in _NAMES.split()}
SECONDS, WAITING = 10.0, 60.0  # of the processor, and of the clock on a machine that others use, for one attempt
MIB = 1 << 20
SPARE = 64 * MIB


@dataclass(frozen=True)
class Attempt:
    """One damaged input: what it was (`target`), how it can be made again, and what went wrong ("" for nothing)."""

    target: str
    name: str
    fault: str = ""


class TooSlow(BaseException):
    """Raised where an attempt takes too long; no `except Exception` swallows it."""


@contextmanager
def limited(size, faults, times=10):
    """Within it, note in `faults` whatever takes too long, or memory over 64 MiB and `times` times `size` bytes."""

    def late(*_):
        raise TooSlow

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, WAITING))
    old = [signal.signal(number, late) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    except TooSlow:
        faults.append(f"takes over {SECONDS:g} s")
    except RecursionError:
        faults.append("RecursionError")
    finally:
        for (timer, number, _), handler in zip(timers, old):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > SPARE + times * size:
        faults.append(f"takes {grown / MIB:.0f} MiB for {size} bytes")


def one_line(error, root):
    """What is wrong with a refusal: "" where it is one short line that names a file below `root`."""
    text = str(error)
    if len(text.splitlines()) != 1:
        return f"a refusal of {len(text.splitlines())} lines: {text[:200]!r}"
    if len(text) > 1000:
        return f"a refusal of {len(text)} letters: {text[:200]!r}"
    return "" if str(root) in text else f"a refusal that names no file: {text[:200]!r}"


def run(part, seed=0, seconds=0.0, count=0):
    """Attempts of a part for so long or so many: (tried by target, faults)."""
    tried, faults = Counter(), []
    logging.disable(logging.WARNING)  # what readers leave out is checked where it matters
    end = time.monotonic() + seconds if seconds else float("inf")
    for attempt in importlib.import_module(PARTS[part]).attempts(seed):
        tried[attempt.target] += 1
        if attempt.fault:
            faults.append(attempt)
        if time.monotonic() > end or (count and tried.total() >= count):
            return tried, faults
    return tried, faults
