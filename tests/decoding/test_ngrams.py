"""The n-gram tables of forking rows say what a rescan of each row says, and stay small."""

import random

import pytest

from florence2.decoding.ngrams import History, Segment, select


def rescan(tokens, size):
    """The tokens that would repeat an n-gram, by looking at the whole row."""
    tail = tuple(tokens[len(tokens) - size + 1 :])
    if len(tokens) < size - 1:
        return set()
    return {tokens[i + size - 1] for i in range(len(tokens) - size + 1) if tuple(tokens[i : i + size - 1]) == tail}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_rescan_while_rows_fork_and_die(size, seed):
    rng = random.Random(seed)
    histories, rows = [History(size, 2)], [[2]]
    found = 0
    for _ in range(120):
        chosen = [rng.randrange(len(rows)) for _ in range(rng.randint(1, 5))]
        histories = select(histories, chosen)
        rows = [list(rows[i]) for i in chosen]
        for history, row in zip(histories, rows):
            token = rng.randrange(4)
            history.append(token)
            row.append(token)
            got = [t for followers in history.followers() for t in followers]
            assert set(got) == rescan(row, size)
            found += len(got)
    assert found


def depth(history):
    segment, n = history.segment, 0
    while segment is not None:
        segment, n = segment.parent, n + 1
    return n


def test_a_row_looks_through_no_more_segments_than_there_are_beams():
    rng = random.Random(0)
    histories = [History(3, 2)]
    for _ in range(500):
        histories = select(histories, [rng.randrange(len(histories)) for _ in range(5)])
        for history in histories:
            history.append(rng.randrange(50))
        assert max(map(depth, histories)) <= 5


def test_joining_costs_grow_as_the_row_does(monkeypatch):
    """Entries moved between tables: at most eight times as many for four times the tokens."""
    moved = 0
    join = Segment.join

    def counted(self, past):
        nonlocal moved
        moved += min(len(past.followers), len(self.followers))
        join(self, past)

    monkeypatch.setattr(Segment, "join", counted)
    counts = []
    for length in (4_000, 16_000):
        moved, rng = 0, random.Random(0)
        histories = [History(3, 2)]
        for _ in range(length):
            histories = select(histories, [rng.randrange(len(histories)) for _ in range(3)])
            for history in histories:
                history.append(rng.randrange(1000))
        counts.append(moved)
    assert 0 < counts[1] <= 8 * counts[0]
