"""A run's state as Prometheus reads it: a file for node_exporter's textfile collector, or a port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from florence2.atomic_files import check_replaceable, write_atomic
from florence2.monitoring.run_journal import RunSink
from florence2.monitoring.run_state import FAILED, RUNNING, PhaseState, RunState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SUFFIX = ".prom"  # what the textfile collector reads, and nothing else

# name -> kind, what it says; an item is a picture, or a step of training
METRICS: dict[str, tuple[str, str]] = {
    "florence2_run_info": ("gauge", "The run: its command, its id, the version."),
    "florence2_run_running": ("gauge", "1 while it runs, 0 when it has ended."),
    "florence2_run_failed": ("gauge", "1 when it ended by an error."),
    "florence2_run_start_time_seconds": ("gauge", "When it began, Unix time."),
    "florence2_run_update_time_seconds": ("gauge", "When these figures were taken, Unix time."),
    "florence2_run_snapshot": ("gauge", "The newest snapshot that it committed."),
    "florence2_run_snapshots_total": ("counter", "Snapshots that it committed."),
    "florence2_run_phase_items": ("gauge", "Items of a phase."),
    "florence2_run_phase_items_found": ("gauge", "Of these, done before this run."),
    "florence2_run_items_total": ("counter", "Items done by this run."),
    "florence2_run_failures_total": ("counter", "Items that gave nothing, by reason."),
    "florence2_run_quarantined_items": ("gauge", "Items left alone, as they failed in three runs."),
    "florence2_run_retries_total": ("counter", "Jobs given out again as their worker was lost, by cause."),
    "florence2_run_fragments_total": ("counter", "Fragments written."),
    "florence2_run_rows_total": ("counter", "Rows in these."),
    "florence2_run_busy_seconds_total": ("counter", "Seconds of all workers at jobs that ended."),
    "florence2_run_workers": ("gauge", "Workers of a phase."),
    "florence2_run_phase_seconds_left": ("gauge", "Seconds until the end of a phase at its rate."),
    "florence2_run_phase_given_up": ("gauge", "1 where a phase was ended before its time."),
    "florence2_run_value": ("gauge", "The newest of a figure of training."),
}


def exposition(state: RunState) -> str:
    """All figures of a run in Prometheus' text format."""
    found: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in _figures(state):
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        found[name].append(f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}")
    lines: list[str] = []
    for name, (kind, text) in METRICS.items():
        if found[name]:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *found[name]]
    return "\n".join(lines) + "\n"


Figure = tuple[str, dict[str, str], float]


def _figures(state: RunState) -> Iterator[Figure]:
    yield "florence2_run_info", {"command": state.command, "run": state.run, "version": state.version}, 1
    yield "florence2_run_running", {}, int(state.outcome == RUNNING)
    yield "florence2_run_failed", {}, int(state.outcome == FAILED)
    yield "florence2_run_start_time_seconds", {}, state.began
    yield "florence2_run_update_time_seconds", {}, state.updated
    yield "florence2_run_snapshot", {}, state.snapshot
    yield "florence2_run_snapshots_total", {}, state.snapshots
    newest = {phase.name: phase for phase in state.phases}  # a phase that is begun again counts from its last beginning
    for phase in newest.values():
        yield from _of_phase(phase)
    for name, value in state.values.items():
        yield "florence2_run_value", {"name": name}, value


def _of_phase(phase: PhaseState) -> Iterator[Figure]:
    label = {"phase": phase.name}
    yield "florence2_run_phase_items", label, phase.total
    yield "florence2_run_phase_items_found", label, phase.found
    yield "florence2_run_items_total", label, phase.done
    yield "florence2_run_quarantined_items", label, phase.quarantined
    yield "florence2_run_fragments_total", label, phase.fragments
    yield "florence2_run_rows_total", label, phase.rows
    yield "florence2_run_busy_seconds_total", label, phase.busy_s
    yield "florence2_run_workers", label, phase.workers
    yield "florence2_run_phase_given_up", label, int(bool(phase.given_up))
    if phase.seconds_left is not None:
        yield "florence2_run_phase_seconds_left", label, phase.seconds_left
    for reason, count in phase.failures.items():
        yield "florence2_run_failures_total", {**label, "reason": reason}, count
    for cause, count in phase.retries.items():
        yield "florence2_run_retries_total", {**label, "cause": cause}, count


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


NOT_BEGUN = RunState(outcome=FAILED)  # a command that is refused before its run begins leaves this


class MetricsFile(RunSink):
    """A file that always holds the newest figures, whole."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        check_replaceable(self.path, b"# HELP florence2_run_", "the metrics of an earlier run")
        write_atomic(self.path, exposition(NOT_BEGUN))

    def state(self, state: RunState) -> None:
        """Write it anew."""
        write_atomic(self.path, exposition(state))


class MetricsServer(RunSink):
    """Answers /metrics on 127.0.0.1 with the newest figures."""

    def __init__(self, port: int):
        self._state = NOT_BEGUN
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's own name for it
                found = self.path.partition("?")[0] == "/metrics"
                body = exposition(outer._state).encode() if found else b"ask for /metrics\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Requests are nobody's news."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise OSError(error.errno, f"metrics: {error.strerror}; name another port", f"127.0.0.1:{port}") from None
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def state(self, state: RunState) -> None:
        """Answer with this from now on."""
        self._state = state

    def close(self) -> None:
        """Let go of the port."""
        self._server.shutdown()
        self._server.server_close()


def metrics_sink(where: str) -> RunSink:
    """A port of this machine, or a file; ValueError where it is neither."""
    if where.isdecimal():
        if not 0 < int(where) <= 65535:
            raise ValueError(f"metrics {where!r}: expected a port from 1 to 65535, or a file that ends in {SUFFIX}")
        return MetricsServer(int(where))
    if not where.endswith(SUFFIX):
        raise ValueError(f"metrics {where!r}: expected a port, or a file that ends in {SUFFIX}")
    return MetricsFile(where)
