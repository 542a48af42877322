"""What a command shows while it works: the stage, how much is done, its rate and the time left as its journal says."""

import pytest

from florence2.cli import progress
from florence2.cli.dry_run import size
from florence2.cli.progress import ProgressBars, duration
from florence2.monitoring.run_journal import RunJournal


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(progress, "SHOW_AFTER_S", -1)
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1)
    with ProgressBars() as shown:
        yield shown


def test_a_stage_shows_the_rate_and_the_time_left_of_its_journal(bars, capsys):
    bars("reading", 1, 4)
    bars.journal = RunJournal()
    bars.journal.begin("annotate", "s", "0", {"run": (600.0, 300.0)})  # two a second in an earlier run
    bars.journal.phase("boxes", 1000, "run")
    bars("boxes", 400, 1000)
    bars.journal.counted(0, 400)
    bars("boxes", 400, 1000)
    bars("other", 1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1 of 4",
        "boxes: 400 of 1000, 2 a second, 8 min 20 s left",
        "boxes: 400 of 1000, 2 a second, 5 min left",
        "other: 1 of 2",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (0, "0 s"), (41.4, "41 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"),
     (18720, "5 h 12 min"), (273600, "3 d 4 h"), (-5, "0 s")],
)  # fmt: skip
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (812, "812 B"), (4.1e6, "4.1 MB"), (1.66e12, "1.66 TB")])
def test_a_size_in_words(count, words):
    assert size(count) == words
