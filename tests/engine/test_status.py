"""`florence2 status`: what a run has done, from outside, while it goes on, after it was killed, and after its rerun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import florence2
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.run_records import run_states
from florence2.engine.status import status
from florence2.monitoring import run_journal
from florence2.monitoring.run_journal import RunJournal
from florence2.monitoring.run_log import RunLog
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, Misbehaving, folder_of, fragments
from tests.monitoring.test_run_journal import check_lines, figures

SLOW = """import time
from tests.engine.doubles import Boxes

class Slow(Boxes):
    def __init__(self):
        super().__init__("slow", batch_size=1)
    def one(self, sample, image):
        time.sleep(0.1)
        return super().one(sample, image)
"""


@pytest.fixture
def started(tmp_path):
    """Starts `annotate` in a process of its own; what is left of it is killed."""
    folder_of(tmp_path, 60)
    (tmp_path / "slow.py").write_text(SLOW)
    running = []

    def start(*more):
        words = ["annotate", tmp_path / "pictures", "--out", tmp_path / "s", "--with", f"{tmp_path}/slow.py:Slow"]
        command = [sys.executable, "-m", "florence2", *words, "--trust", "--workers", "1", "--unit", "5", *more]
        running.append(subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def waited(condition, seconds=60):
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def in_slow(root):
    """The store's status once its run is in the specialist's phase."""

    def look():
        if not (root / "snapshots").is_dir():
            return None
        found = status(root)
        phase = found.run.state.phase if found.run else None
        return found if phase and phase.name == "slow" and phase.done > 3 else None

    return look


def test_status_while_it_runs_after_a_kill_and_after_the_rerun(started, tmp_path, capsys):
    root, log = tmp_path / "s", tmp_path / "log.jsonl"
    first = started("--log", log)
    during = waited(in_slow(root))
    assert during.run.outcome == "running" and during.run.alive and during.run.state.pid == first.pid
    phase = during.run.state.phase
    assert phase.total == 60 and phase.rate and 0 < phase.seconds_left < 60 and during.snapshot == 0
    before = sorted(path for path in root.rglob("*") if path.is_file() and "tmp" not in path.parts)
    assert main(["status", str(root)]) == 0
    out = capsys.readouterr().out
    assert "no snapshot yet" in out and "running" in out and "slow: " in out and " left" in out
    first.send_signal(signal.SIGKILL)
    first.wait()
    after = status(root)
    assert after.run.outcome == "interrupted" and after.run.alive is False and after.run.seconds_left is None
    assert set(before) <= set(root.rglob("*")) and after.unnamed > 0
    assert main(["status", str(root), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["run"]["outcome"] == "interrupted" and plain["run"]["phases"][-1]["name"] == "slow"
    assert [line["event"] for line in check_lines(log)].count("run_ended") == 0

    again = started("--log", log, "--metrics", tmp_path / "m.prom")
    _, err = again.communicate(timeout=100)
    assert again.returncode == 0, err
    ended = status(root)
    (slow,) = ended.specialists
    assert (slow.name, slow.done, slow.due, slow.failed) == ("slow", 60, 0, 0) and ended.unnamed == 0
    phase = ended.run.state.phases[-1]
    assert ended.run.outcome == "ended" and phase.found >= 5 and phase.found + phase.done == 60
    assert phase.earlier_s > 0 and phase.earlier_items > 0  # the killed run's rate was known from the beginning
    lines = check_lines(log)
    assert lines[-1]["event"] == "run_ended" and len({line["run"] for line in lines}) == 2
    found = figures((tmp_path / "m.prom").read_text())
    assert found["florence2_run_items_total", ("phase", "slow")] == phase.done and not found["florence2_run_running",]


@pytest.mark.parametrize("workers", [0, 1])
def test_log_and_status_count_failures_retries_and_quarantine(tmp_path, workers):
    root = folder_of(tmp_path, 6)
    bad = Misbehaving("raises", ["p0001.png", "p0002.png"])
    for run in range(4):
        log = tmp_path / f"log-{run}"
        florence2.annotate(root, tmp_path / "s", [bad], workers=workers, journal=RunJournal([RunLog(log)]))
    found = status(tmp_path / "s")
    (one,) = found.specialists
    assert (one.done, one.due, one.failed, one.quarantined) == (4, 0, 2, 2)
    events = {line["event"]: line for line in check_lines(tmp_path / "log-0")}
    assert events["items_failed"]["reasons"] == {"error": 2} and events["snapshot_committed"]["snapshot"] == 1
    assert events["phase_ended"]["failed"] == 2 and events["phase_ended"]["items"] == 6
    last = {line["event"]: line for line in check_lines(tmp_path / "log-3")}
    assert last["quarantined"]["items"] == 2 and last["phase_ended"]["found"] == 6
    Store(tmp_path / "s").compact()
    (one,) = status(tmp_path / "s").specialists
    assert (one.done, one.failed, one.quarantined) == (4, 2, 2)


def test_a_worker_that_dies_is_a_retry_in_the_log(tmp_path):
    root = folder_of(tmp_path, 3)
    dies = Misbehaving("exits", ["p0001.png"])
    florence2.annotate(root, tmp_path / "s", [dies], workers=1, journal=RunJournal([RunLog(tmp_path / "log")]))
    lines = check_lines(tmp_path / "log")
    retried = [line for line in lines if line["event"] == "job_retried"]
    assert retried and {line["cause"] for line in retried} == {"died"}
    assert any(line["event"] == "message" and "tried again" in line["text"] for line in lines)
    assert run_states(Store(tmp_path / "s"))[-1].phases[-1].retries == {"died": len(retried)}


def test_a_store_elsewhere_says_the_same(place, tmp_path):
    florence2.annotate(folder_of(tmp_path, 3), place, [Boxes()], workers=0)
    florence2.filter(place, [Floor(0.5)])
    found = status(place)
    assert found.run.state.command == "filter" and [p.name for p in found.run.state.phases] == ["judging"]
    assert [(s.name, s.done) for s in found.specialists] == [("boxes", 3)] and found.phase == "filter"


def test_a_run_that_failed_says_why(tmp_path):
    florence2.annotate(folder_of(tmp_path, 2), tmp_path / "s", [Boxes()], workers=0)

    class Raises(Floor):
        def judge(self, sample):
            raise ValueError("no verdict")

    with pytest.raises(ValueError, match="no verdict"):
        florence2.filter(tmp_path / "s", [Raises(0.5)])
    found = status(tmp_path / "s")
    assert found.run.outcome == "failed" and "no verdict" in found.run.state.error


def test_a_run_on_another_machine_is_known_by_its_last_sign(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 2), tmp_path / "s", [Boxes()], workers=0)
    state = run_states(store)[-1]
    state.host, state.outcome, state.run, state.updated = "elsewhere", "running", "9999", time.time() - 300
    store.keep_run_state(state.run, state.to_json())
    found = status(store)
    assert found.run.alive is None and found.run.outcome == "running" and 290 < found.run.silent_s < 400


def test_a_run_that_goes_on_beside_the_newest_is_shown_too(tmp_path, capsys):
    store = florence2.annotate(folder_of(tmp_path, 2), tmp_path / "s", [Boxes()], workers=0)
    state = run_states(store)[-1]
    for host, silent in (("near", 3), ("gone", 7000)):
        state.host, state.outcome, state.run, state.updated = host, "running", f"0-{host}", time.time() - silent
        store.keep_run_state(state.run, state.to_json())
    found = status(store)
    assert [run.state.host for run in found.beside] == ["near"] and found.run.outcome == "ended"
    assert main(["status", str(store.root)]) == 0
    out = capsys.readouterr().out
    assert "running, last sign" in out and "near, process" in out and ": ended" in out and "gone, process" not in out
    assert [run["host"] for run in found.to_json()["beside"]] == ["near"]


def test_the_newest_run_is_the_one_that_began_last_though_the_clock_was_set_back(tmp_path, monkeypatch):
    folder, now = folder_of(tmp_path, 2), time.time
    for days, name in ((0, "boxes"), (-3, "second"), (-9, "third")):
        monkeypatch.setattr(run_journal.time, "time", lambda days=days: now() + days * 86400)
        store = florence2.annotate(folder, tmp_path / "s", [Boxes(name)], workers=0)
        assert status(store).run.state.phases[-1].name == name


def test_what_is_due_after_a_compaction_and_of_several_folders(tmp_path):
    first, second = folder_of(tmp_path / "a", 3), folder_of(tmp_path / "b", 4, start=10)

    def shown(store):
        return {s.name: (s.done, s.due) for s in status(store).specialists}

    store = florence2.annotate(first, tmp_path / "s", [Boxes()], workers=0)
    florence2.annotate(second, store.root, [Boxes(), Boxes("more")], workers=0)
    assert shown(store) == {"boxes": (7, 0), "more": (4, 0)}
    folder_of(tmp_path / "b", 2, start=20)
    florence2.annotate(second, store.root, [Boxes("more")], workers=0)
    assert shown(store) == {"boxes": (7, 2), "more": (6, 0)}
    store.compact()
    assert shown(store) == {"boxes": (7, 2), "more": (6, 0)}
    florence2.annotate(store.root, None, [Boxes("more")], workers=0)
    assert shown(store) == {"boxes": (7, 2), "more": (9, 0)}


def test_pictures_that_are_gone_are_not_counted(tmp_path):
    folder = folder_of(tmp_path, 5)
    florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0, unit=3)
    (folder / "p0001.png").unlink()
    store = florence2.annotate(folder, tmp_path / "s", [Boxes(), Boxes("more")], workers=0)
    counted = {p.name: (p.found, p.done, p.total) for p in run_states(store)[-1].phases}
    assert counted == {"boxes": (4, 0, 4), "more": (0, 4, 4)}
    assert {s.name: (s.done, s.due) for s in status(store).specialists} == {"boxes": (4, 0), "more": (4, 0)}


def test_a_picture_that_became_good_later_is_due(tmp_path):
    folder = folder_of(tmp_path, 3)
    shutil.copy(folder / "p0001.png", folder / "p0009.png")  # a duplicate
    store = florence2.annotate(folder, tmp_path / "s", [Boxes(), Boxes("more")], workers=0)
    (folder / "p0001.png").unlink()
    florence2.annotate(folder, store.root, [Boxes()], workers=0)
    assert store.counts()["images"]["ok"] == 3
    assert {s.name: (s.done, s.due) for s in status(store).specialists} == {"boxes": (3, 0), "more": (2, 1)}


def test_only_the_newest_states_are_kept_and_strange_ones_are_passed_over(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 1), tmp_path / "s", [Boxes()], workers=0)
    for number in range(30):
        store.keep_run_state(f"0000-{number:02}", {"run": 3, "strange": [1]})
    (store.root / "tmp/commands/0001.json").write_bytes(b"\xff{")
    florence2.filter(store, [Floor(0.5)])
    assert len(list((store.root / "tmp/commands").iterdir())) == 20
    assert [state.command for state in run_states(store)] == ["annotate", "filter"]


def test_states_are_no_part_of_the_data(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 2), tmp_path / "s", [Boxes()], workers=0)
    held = fragments(store.root)
    for path in (store.root / "tmp/commands").iterdir():
        os.unlink(path)
    florence2.annotate(tmp_path / "pictures", tmp_path / "s", [Boxes()], workers=0)
    assert fragments(store.root) == held and store.verify() == [] and store.snapshots() == [1]


def test_an_import_is_a_run_too(tmp_path):
    folder_of(tmp_path, 1)
    line = '{"id": "0", "image": {"id": "0", "uri": "pictures/p0000.png"}, "texts": [{"id": "t", "text": "a"}]}'
    (tmp_path / "labels.jsonl").write_text(line + "\n")
    store = import_labels(tmp_path / "labels.jsonl", tmp_path / "s", workers=0)
    assert [phase.name for phase in run_states(store)[-1].phases][:2] == ["inspecting", "importing"]


def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path / "none")]) == 1
    assert "not a store" in capsys.readouterr().err
