"""Ctrl-C ends a command at once, with exit code 130 and one line, whatever it is waiting for."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import florence2
from florence2.cli import entry, main
from tests.engine.doubles import Boxes, folder_of

STUCK = """
import pathlib, time
class Stuck:
    name, version = "stuck", "1"
    def annotate(self, samples, images):
        pathlib.Path({mark!r}).write_text("here")
        time.sleep(600)
"""
RULE = (
    "def accept(image):\n    import pathlib, time\n    pathlib.Path({mark!r}).write_text('here')\n    time.sleep(600)\n"
)


def interrupted(command, mark, again=False):
    """What a command leaves on stderr, interrupted when it has written the file `mark`, and how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "florence2", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, text=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not mark.exists():
            assert time.monotonic() < end and process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        for _ in range(1 + again):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        _, said = process.communicate(timeout=60)  # none of these would end by itself
        return process.returncode, said
    finally:
        process.kill()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_specialist_that_is_at_work_is_not_waited_for(tmp_path, workers):
    (tmp_path / "own.py").write_text(STUCK.format(mark=str(tmp_path / "mark")))
    command = ["annotate", folder_of(tmp_path, 3), "--out", tmp_path / "s", "--with", f"{tmp_path / 'own.py'}:Stuck"]
    code, said = interrupted([*command, "--workers", workers], tmp_path / "mark")
    assert (code, said.splitlines()[-1]) == (
        130,
        "florence2 annotate: interrupted; run the same command again to go on",
    )
    assert "Traceback" not in said


def test_pictures_that_are_inspected_are_not_waited_for_nor_is_a_second_ctrl_c_an_error(tmp_path):
    (tmp_path / "rule.py").write_text(RULE.format(mark=str(tmp_path / "mark")))
    command = [
        "annotate",
        folder_of(tmp_path, 3),
        "--out",
        tmp_path / "s",
        "--accept",
        f"{tmp_path / 'rule.py'}:accept",
    ]
    code, said = interrupted([*command, "--with", "opencv", "--workers", 0], tmp_path / "mark", again=True)
    assert code == 130 and "Traceback" not in said


def test_workers_that_are_still_loading_are_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'fork_template' in ' '.join(sys.orig_argv):\n    import pathlib, time\n"
        f"    pathlib.Path({str(tmp_path / 'mark')!r}).write_text('here')\n    time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))
    store = florence2.annotate(folder_of(tmp_path, 4), tmp_path / "s", [Boxes()], workers=0, unit=2)
    code, said = interrupted(["filter", store.root, "--workers", 2], tmp_path / "mark")
    assert (code, said) == (130, "florence2 filter: interrupted; run the same command again to go on\n")


@pytest.mark.parametrize("as_error", [False, True])
def test_while_a_library_is_loaded(monkeypatch, capsys, as_error):
    def load(name):
        if not as_error:
            raise KeyboardInterrupt
        monkeypatch.setattr(entry, "_PRESSED", threading.Event())
        entry._PRESSED.set()
        raise ImportError("importing the C extensions failed\nread this")

    monkeypatch.setattr(importlib, "import_module", load)
    assert main(["verify", "x"]) == 130
    assert capsys.readouterr().err == "florence2 verify: interrupted; run the same command again to go on\n"


@pytest.mark.parametrize(
    "own, spins", [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_the_command_lets_threads_sleep_soon_unless_the_user_says_otherwise(own, spins):
    code = "import atexit, os; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT')))\n"
    code += "import sys; sys.argv[1:] = ['--version']\nfrom florence2.cli import script\nscript()"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {**{k: v for k, v in os.environ.items() if k not in names}, **own}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(spins)
