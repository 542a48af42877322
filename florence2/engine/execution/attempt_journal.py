"""What the journal of a job's tries shows: what it was at when its worker died, and which of its pictures kill."""

from __future__ import annotations

from collections.abc import Sequence

LOST = {"died": "worker_died", "timeout": "timeout"}  # what the supervisor writes of a worker that it lost -> reason


def picture(index: int) -> str:
    """The line before a picture is tried alone."""
    return f"picture {index}"


def read(lines: Sequence[str], attempts: int) -> tuple[bool, dict[int, str]]:
    """Whether to do a job's pictures one by one, and which of them killed a worker when tried alone."""
    poison = {}
    for before, line in zip(lines, lines[1:]):
        if line in LOST and before.startswith("picture "):
            poison[int(before.split()[1])] = LOST[line]
    return "timeout" in lines or deaths(lines) >= attempts, poison


def deaths(lines: Sequence[str]) -> int:
    """How many workers died over a job while their supervisor lived."""
    return sum(line in LOST for line in lines)
