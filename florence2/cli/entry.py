"""The command line: a table of commands, each opened by name. Knows how a command fails, not what it does.

Each command is a module here with `main(argv) -> int`. A user's mistake is ValueError or OSError with one line that
says what was expected, what came and what to do; it becomes that line on stderr and exit code 1.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import NoReturn

from florence2.cli.terminal import Printable, printable
from florence2.labels import one_line

# How often a waiting thread looks before it sleeps. OpenMP's own 300,000 keep threads that share busy cores from one
# another; on free cores this many cost nothing.
SPINS = "20000"

# command -> its one-line summary; the module is florence2.cli.<command> ("import" is in import_, "-" is "_")
COMMANDS = {
    "predict": "answer a task about images",
    "import": "bring existing annotations into a store",
    "annotate": "run specialists over a folder or a store",
    "filter": "judge the annotations of a store",
    "refine": "train a student on a store, re-annotate, merge; again",
    "train": "train a model from a config",
    "data": "check or show a data set as the model sees it",
    "evaluate": "score a model or a specialist on a data set",
    "report": "write a page about a store or a run",
    "review": "write the pictures worth a person's minute for Label Studio",
    "export": "write a store as COCO, VOC, YOLO, JSON Lines, Label Studio or CVAT",
    "serve": "answer over HTTP, with pages to try a model and to correct a store",
    "view": "look through a store in the browser, and correct it",
    "calibrate": "make scores probabilities of being right, on labelled data",
    "mcp": "the model's tasks as tools for language models",
    "quantize": "measure bfloat16 and int8, keep what is good enough",
    "convert": "save a checkpoint in another layout",
    "export-model": "write a checkpoint as ONNX graphs, compared with it first",
    "push": "upload a checkpoint to the Hugging Face hub",
    "doctor": "say what a checkpoint is, and whether it is whole",
    "plan": "say what a data set of any size would take, and what breaks first",
    "status": "say how a store stands, and what its last run has done",
    "verify": "find damaged or missing parts of a store",
    "relocate": "say where a store's pictures lie now",
    "undo": "step a store back to an earlier snapshot",
    "demo": "the whole idea end to end, in minutes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    if args[0] == "--version":
        from florence2 import __version__

        print(f"florence2 {__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        return _refuse(f"florence2: unknown command {name!r}; expected one of {', '.join(COMMANDS)}", 2)
    with redirect_stdout(Printable(sys.stdout)), redirect_stderr(Printable(sys.stderr)):  # type: ignore[type-var]
        return _run(name, rest)


def script() -> NoReturn:
    """What the installed command runs: ends at once after Ctrl-C, and without a word where it is pressed again."""
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded; docs/speed.md
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    signal.signal(signal.SIGINT, _interrupted)
    try:
        code = main()
    except KeyboardInterrupt:  # before the command began
        code = _refuse("florence2: interrupted", 130)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is printed
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 130:
        os._exit(code)  # threads that read or fetch are not waited for
    sys.exit(code)


_PRESSED = threading.Event()  # Ctrl-C


def _interrupted(*_: object) -> None:
    _PRESSED.set()
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    raise KeyboardInterrupt


def _run(name: str, rest: list[str]) -> int:
    try:
        stem = f"{name}_" if name == "import" else name.replace("-", "_")
        module = importlib.import_module(f"florence2.cli.{stem}")
        return int(module.main(rest))
    except KeyboardInterrupt:
        return _refuse(f"florence2 {name}: interrupted; run the same command again to go on", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        if _PRESSED.is_set():  # a library that was being loaded made an error of its own of it
            return _refuse(f"florence2 {name}: interrupted; run the same command again to go on", 130)
        told = one_line(error, 1000).removeprefix(f"{name}: ")  # as Python functions of the same name begin theirs
        if not isinstance(error, ImportError):
            return _refuse(f"florence2 {name}: {told}", 1)
        from florence2.cli.extras import remedy

        advice = f"; {remedy(error.name)}" if error.name else ""
        return _refuse(f"florence2 {name}: {told}{advice}", 1)


def _usage() -> str:
    rows = "\n".join(f"  {name:<12} {summary}" for name, summary in COMMANDS.items())
    return f"usage: florence2 COMMAND ...\n\n{rows}\n\nflorence2 COMMAND --help says more of each."


def _refuse(line: str, code: int) -> int:
    print(printable(line), file=sys.stderr)
    return code
