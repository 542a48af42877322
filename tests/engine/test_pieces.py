"""Units in pieces: of about half a minute, remembered, put together to the byte; the bar moves by picture."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import florence2
from florence2.engine.execution.handout import PIECE_S, Pace
from florence2.records import Failure, ImageRef, Region, Sample, Source
from florence2.store import Store
from florence2.store.pieces import Pieces
from tests.engine.doubles import Boxes, Misbehaving, folder_of, fragments

# pace, batch, workers, pictures left in the unit, in all -> the next piece
HANDED_OUT = [
    (None, 8, 2, 64, 10_000, 8),  # nothing is known yet
    (None, 8, 2, 5, 5, 5),
    (0.001, 8, 2, 64, 10_000, 64),  # fast: the whole unit
    (1.0, 1, 2, 64, 10_000, 30),  # half a minute
    (1.0, 8, 2, 64, 10_000, 24),  # in whole batches
    (100.0, 8, 2, 64, 10_000, 8),  # one batch at least
    (2.2, 1, 2, 26, 26, 6),  # so that both workers end together
    (2.2, 1, 1, 26, 26, 13),
    (2.2, 1, 2, 2, 2, 1),
]


@pytest.mark.parametrize("pace, batch, workers, in_unit, in_all, expected", HANDED_OUT)
def test_pieces_fit_the_work(pace, batch, workers, in_unit, in_all, expected):
    handout = Pace(batch, workers)
    if pace is not None:
        handout.learn(pace * 10, 10)
    assert handout.piece(in_unit, in_all) == expected


@given(st.floats(1e-4, 1e3), st.integers(1, 64), st.integers(1, 8), st.integers(1, 4096), st.integers(0, 10**6))
def test_a_piece_is_of_whole_batches_and_takes_half_a_minute_at_most(pace, batch, workers, in_unit, behind):
    handout = Pace(batch, workers)
    handout.learn(pace * 10, 10)
    piece = handout.piece(in_unit, in_unit + behind)
    assert 1 <= piece <= in_unit and (piece == in_unit or piece % batch == 0)
    assert piece * pace <= max(PIECE_S, pace * batch) * (1 + 1e-9)


def test_what_is_remembered_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path / "s", create=True)
    source = Source("specialist", "x", "1", 0, "r")
    region = Region("r", box=(0.1 + 0.2, 1 / 3, 5.0, 7.0), label="ü", source=source)
    found = [
        Sample("a", ImageRef("a", "a.png"), regions=(region,)),
        Failure(id="b", reason="error", detail="no\udcffluck"),
        Sample("c", ImageRef("c", "c.png")),
    ]
    store.pieces("u").remember(1, found[1:])
    assert store.pieces("u").collect(3) is None and store.pieces("u").gaps(5) == [(0, 1), (3, 5)]
    store.pieces("u").remember(0, found[:1])
    assert store.pieces("u").collect(3) == found and store.begun_units() == {"u"}
    store.pieces("u").forget()
    assert store.begun_units() == set() and not (store.root / "tmp/pieces/u").exists()


@pytest.fixture
def small_pieces(monkeypatch):
    """Every piece is one batch."""
    monkeypatch.setattr(Pace, "piece", lambda self, in_unit, in_all: min(in_unit, self.batch))


def test_a_unit_put_together_from_pieces_is_the_same_to_the_byte(tmp_path, small_pieces, monkeypatch):
    folder = folder_of(tmp_path, 10)
    bad = Misbehaving("raises", ["p0005.png"], batch_size=2, requires={"box"})
    parts = florence2.annotate(folder, tmp_path / "parts", [Boxes(batch_size=3), bad], workers=0, unit=10)
    two = florence2.annotate(folder, tmp_path / "two", [Boxes(batch_size=3), bad], workers=2, unit=10)
    monkeypatch.setattr(Pace, "piece", lambda self, in_unit, in_all: in_unit)
    whole = florence2.annotate(folder, tmp_path / "whole", [Boxes(batch_size=3), bad], workers=0, unit=10)
    assert fragments(parts) == fragments(whole) == fragments(two)
    assert parts.snapshot().to_bytes() == whole.snapshot().to_bytes() == two.snapshot().to_bytes()
    assert parts.begun_units() == two.begun_units() == set()


class Counts(Boxes):
    """Writes down whom it was asked about; leaves the process at the n-th picture."""

    def __init__(self, log, end=0):
        super().__init__("counts", batch_size=2)
        self.log, self.end = log, end

    def one(self, sample, image):
        with open(self.log, "a") as file:
            file.write(sample.image.uri + "\n")
        if self.end and len(self.log.read_text().splitlines()) >= self.end:
            os._exit(9)
        return super().one(sample, image)


def test_a_kill_loses_a_piece_and_no_more(tmp_path, small_pieces):
    folder, log = folder_of(tmp_path, 10), tmp_path / "log"
    child = os.fork()
    if not child:
        try:
            florence2.annotate(folder, tmp_path / "s", [Counts(log, end=8)], workers=0, unit=10)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    log.write_text("")
    store = florence2.annotate(folder, tmp_path / "s", [Counts(log)], workers=0, unit=10)
    assert len(log.read_text().splitlines()) == 4  # the piece of two that was lost, and the last two
    clean = florence2.annotate(folder, tmp_path / "clean", [Counts(tmp_path / "other")], workers=0, unit=10)
    assert fragments(store) == fragments(clean) and store.begun_units() == set()


def test_a_unit_all_of_whose_pieces_are_there_is_put_together(tmp_path, small_pieces, monkeypatch):
    folder, log = folder_of(tmp_path, 4), tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(Pieces, "collect", lambda *args: None)  # as if killed between the last piece and the unit
        florence2.annotate(folder, tmp_path / "s", [Counts(log)], workers=0, unit=4)
    assert not list((tmp_path / "s" / "annotations").glob("**/*.parquet"))
    store = florence2.annotate(folder, tmp_path / "s", [Counts(log)], workers=0, unit=4)
    assert len(log.read_text().splitlines()) == 4 and store.counts()["annotations"]["kept"] == 12


def test_pieces_left_beside_a_whole_unit_are_removed(tmp_path, small_pieces, monkeypatch):
    folder = folder_of(tmp_path, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Pieces, "forget", lambda *args: None)
        store = florence2.annotate(folder, tmp_path / "s", [Boxes(batch_size=2)], workers=0, unit=4)
    assert store.begun_units()
    florence2.annotate(folder, tmp_path / "s", [Boxes(batch_size=2)], workers=0, unit=4)
    assert not store.begun_units()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_bar_moves_by_picture(tmp_path, workers):
    folder, shown = folder_of(tmp_path, 6), []

    def progress(*what):
        shown.append(what)

    florence2.annotate(folder, tmp_path / "s", [Boxes(batch_size=1)], workers=workers, unit=6, progress=progress)
    for stage in ("inspecting", "boxes"):
        done = [number for name, number, total in shown if name == stage]
        assert set(done) == set(range(7)), stage


def test_pieces_are_plain_json(tmp_path):
    store = Store(tmp_path / "s", create=True)
    store.pieces("u").remember(0, [Failure(id="a", reason="error")])
    (path,) = (store.root / "tmp/pieces/u").iterdir()
    assert json.loads(path.read_text()) == [{"failure": {"id": "a", "reason": "error"}}]
