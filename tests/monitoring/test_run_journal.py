"""The journal of a run: state, log lines and metrics say the same, and the time left follows from what was measured."""

import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from florence2.monitoring import run_journal
from florence2.monitoring.exposition import METRICS, MetricsServer, exposition, metrics_sink
from florence2.monitoring.run_journal import EVENTS, NOT_TAKEN, RunJournal, RunSink
from florence2.monitoring.run_log import RunLog
from florence2.monitoring.run_state import PhaseState, RunState

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def check_lines(path):
    """The events of a log; every line has the fields of its event, of their types, and no other."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        fields = {"time": str, "run": str, "event": str, **EVENTS[line["event"]]}
        assert set(line) == set(fields), line
        for name, kind in fields.items():
            assert isinstance(line[name], (int, float) if kind is float else kind), (name, line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return lines


def figures(text):
    """Name and labels -> value, as Prometheus' own parser reads them."""
    out = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            out[key] = sample.value
            assert (family.name if family.type != "counter" else f"{family.name}_total") in METRICS
            assert family.documentation and family.type == METRICS[sample.name][0]
    return out


def eventful(journal, tmp_path):
    journal.begin("annotate", str(tmp_path), "0")
    journal.phase("a", 10, "run", 2)
    journal.unit("u", 4, 2, 7, 1.5, {"annotate": 1.0})
    journal.counted(4, 3)
    journal.failed("u", {"error": 1, 'od"d\n': 2})
    journal.retried("died", 4, "exit code -9")
    journal.quarantined(2)
    journal.given_up("no use")
    journal.snapshot(3, 9)
    journal.begun_again("another command ended")
    journal.training_step(5, 20, {"loss": 0.5})
    journal.message("a remark")
    journal.end("failed", "all over")


def test_log_metrics_and_state_say_the_same(tmp_path):
    journal = RunJournal([RunLog(tmp_path / "log"), metrics_sink(str(tmp_path / "m.prom"))])
    eventful(journal, tmp_path)
    lines = check_lines(tmp_path / "log")
    assert {line["event"] for line in lines} == set(EVENTS)
    assert (
        lines[0]["event"] == "run_started" and lines[-1]["event"] == "run_ended" and len({x["run"] for x in lines}) == 1
    )
    found = figures((tmp_path / "m.prom").read_text())
    assert found["florence2_run_items_total", ("phase", "a")] == 4 == journal.now.phases[0].done
    assert found["florence2_run_phase_items_found", ("phase", "a")] == 3
    assert found["florence2_run_failures_total", ("phase", "a"), ("reason", 'od"d\n')] == 2
    assert found["florence2_run_retries_total", ("cause", "died"), ("phase", "a")] == 1
    assert found["florence2_run_quarantined_items", ("phase", "a")] == 2
    assert found["florence2_run_value", ("name", "loss")] == 0.5 and found["florence2_run_snapshot",] == 3
    assert found["florence2_run_running",] == 0 and found["florence2_run_failed",] == 1
    assert found["florence2_run_phase_items_found", ("phase", "training")] == 4  # it went on at the fifth step
    assert {name for name, *_ in found} == set(METRICS)
    assert RunState.from_json(journal.now.to_json(), "x") == journal.now


def test_the_page_lists_every_event_with_its_fields_and_every_metric():
    text = PAGE.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    for event, fields in EVENTS.items():
        assert re.findall(r"`(\w+)`", rows[event]) == list(fields), event
    for name in METRICS:
        assert f"`{name}`" in text or f"`{name}{{" in text, name


def test_a_port_answers_with_the_newest_figures(tmp_path):
    server = MetricsServer(0)
    journal = RunJournal([server])
    journal.begin("filter", "s", "0")
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert figures(answer.read().decode())["florence2_run_running",] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/other", timeout=10)
    journal.end()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10)


@pytest.mark.parametrize("where", ["0", "70000", "metrics.txt", "host:80"])
def test_other_places_for_metrics_are_refused(where):
    with pytest.raises(ValueError, match="expected a port"):
        metrics_sink(where)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"name another port: '127.0.0.1:{port}'"):
            metrics_sink(str(port))


def test_a_file_that_is_not_one_of_ours_is_not_written_over(tmp_path):
    (tmp_path / "other.prom").write_text("# HELP node_load1\n")
    with pytest.raises(OSError, match="name another file"):
        metrics_sink(str(tmp_path / "other.prom"))


def test_a_sink_that_fails_is_left_out_and_the_run_goes_on(tmp_path):
    class Full(RunSink):
        def event(self, line):
            raise OSError(28, "No space left on device")

    messages = []
    journal = RunJournal([Full(), RunLog(tmp_path / "log")], messages.append)
    journal.begin("annotate", "s", "0")
    journal.end()
    assert len(messages) == 1 and "No space" in messages[0] and len(check_lines(tmp_path / "log")) == 2


class Away(RunSink):
    """Fails at every second state that it is told."""

    def __init__(self):
        self.count, self.told, self.closed = 0, [], False

    def state(self, state):
        self.count += 1
        if self.count % 2:
            raise OSError(5, "no answer")
        self.told.append(state.outcome)

    def close(self):
        self.closed = True
        raise OSError(28, "No space left on device")


def test_a_sink_that_failed_is_told_again_and_each_failure_once_until_it_has_taken_something():
    sink, messages = Away(), []
    journal = RunJournal([sink], messages.append)
    journal.begin("annotate", "s", "0")  # fails
    journal.snapshot(1, 2)
    journal.snapshot(2, 2)  # fails
    journal.end()
    assert sink.told == ["running", "ended"] and sink.closed
    assert [text.split("]")[1].split(";")[0].strip() for text in messages] == [
        "no answer", "no answer", "No space left on device",
    ]  # fmt: skip


def test_a_place_that_is_slow_to_be_told_does_not_hold_up_the_run(monkeypatch):
    monkeypatch.setattr(run_journal, "EVERY_S", 0.01)
    asked, answered = threading.Event(), threading.Event()

    class Slow(RunSink):
        def state(self, state):
            if state.phases and not asked.is_set():
                asked.set()
                assert answered.wait(60)

    journal = RunJournal([Slow()])
    journal.begin("annotate", "s", "0")
    journal.phase("a", 10)
    assert asked.wait(60)
    journal.counted(3, 0)  # would wait for ever
    journal.message("a remark")
    answered.set()
    journal.end()
    assert journal.now.phases[0].done == 3


def test_ids_sort_as_runs_followed_one_another_whatever_the_clock_says(monkeypatch):
    ids = [""]
    for now in (1e9, 1e9, 1e9 - 86400, 1e9 + 60):
        monkeypatch.setattr(run_journal.time, "time", lambda now=now: now)
        journal = RunJournal()
        journal.begin("b" if len(ids) % 2 else "a", "s", "0", after=ids[-1])
        ids.append(journal.now.run)
    assert sorted(ids) == ids and len(set(ids)) == 5
    for strange in ("9999", "99991231T235959Z-annotate", "x", "20260101T00000"):
        journal = RunJournal()
        journal.begin("a", "s", "0", after=strange)
        assert journal.now.run.startswith("2001")


def test_what_is_not_a_run_takes_nothing_down():
    NOT_TAKEN.phase("a", 3)
    NOT_TAKEN.counted(1, 0)
    NOT_TAKEN.unit("u", 1, 1, 1, 1.0, {})
    NOT_TAKEN.failed("u", {"error": 1})
    NOT_TAKEN.retried("died", 1, "")
    NOT_TAKEN.upcoming(["b"])
    NOT_TAKEN.snapshot(2, 1)
    NOT_TAKEN.training_step(1, 2, {"loss": 1.0})
    NOT_TAKEN.end()
    assert NOT_TAKEN.now == RunState() and not NOT_TAKEN.begun


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(run_journal.time, "monotonic", lambda: self.now)


def test_the_rate_is_measured_from_the_first_sign_on(monkeypatch):
    clock, journal = Clock(monkeypatch), RunJournal()
    journal.begin("annotate", "s", "0")
    journal.phase("a", 110, "run", 2)
    journal.counted(0, 10)
    assert journal.now.phase.rate is None and journal.now.phase.seconds_left is None
    clock.now = 300  # loading
    journal.counted(20, 10)
    clock.now = 310
    journal.counted(40, 10)
    assert journal.now.phase.rate == 2 and journal.now.phase.left == 60 and journal.now.phase.seconds_left == 30


def test_a_rerun_knows_the_rate_of_the_one_before(monkeypatch):
    clock, journal = Clock(monkeypatch), RunJournal()
    journal.begin("annotate", "s", "0", {"run": (1000.0, 1000.0)})  # one a second of one worker
    journal.phase("a", 1000, "run", 4)
    journal.counted(0, 600)
    assert journal.now.phase.rate == 4 and journal.now.phase.seconds_left == 100
    journal.counted(1, 600)
    clock.now = 60  # this run is half as fast, and has shown as much of it as counts of the earlier ones
    journal.counted(121, 600)
    assert journal.now.phase.rate == 3
    clock.now = 6000
    journal.counted(201, 600)
    assert journal.now.phase.rate < 0.1


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 64))
def test_a_rate_is_positive_and_never_divides_by_nothing(items, earlier, seconds, earlier_s, workers):
    phase = PhaseState("a", 10, "", workers, 0, 0, measured_items=items, measured_s=seconds)
    phase.earlier_items, phase.earlier_s = earlier, earlier_s
    assert phase.rate is None or phase.rate > 0
    assert phase.seconds_left is None or phase.seconds_left >= 0


def test_a_process_of_the_same_number_is_not_taken_for_the_run():
    state = RunJournal()
    state.begin("annotate", "s", "0")
    assert state.now.is_alive() is True
    state.now.pid_started += "0"
    assert state.now.is_alive() is False
    state.now.host = "elsewhere"
    assert state.now.is_alive() is None
    state.now.outcome = "ended"
    assert state.now.is_alive() is False and os.getpid() == state.now.pid


def test_exposition_of_a_run_that_has_not_begun_can_be_read():
    assert figures(exposition(RunState()))["florence2_run_running",] == 1


def test_a_command_that_is_refused_before_its_run_begins_leaves_no_run_under_way(tmp_path):
    metrics_sink(str(tmp_path / "m.prom"))
    text = (tmp_path / "m.prom").read_text()
    assert "\nflorence2_run_running 0\n" in text and "\nflorence2_run_failed 1\n" in text
