"""Several Python threads on one model beside the same asks in turn; two processes at once beside one alone.

Nano, detection on drawn scenes. Threads: no slower together than in turn is a ratio of at least 1. Processes: each of
two that share the cores by `threads=1` should keep its pace where there is a core for each, and with all threads each
no less than about half; the slower of the two is shown, so that none starves.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

import florence2
from florence2 import sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--asks", type=int, default=48, metavar="N", help="of one measurement (default: 48)")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="alternating runs (default: 5)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    pictures = [sample.image for sample in sources.open("scenes:16")]
    if args.worker is not None:
        _work(args, pictures)
        return
    result: dict[str, object] = {"benchmark": "sharing"}
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        model = florence2.load("nano", threads=threads)
        for count in (2, 4):
            found = _together(model, pictures, count, args)
            print(
                f"torch with {threads} thread(s): {count} Python threads beside in turn: ratio {found:.2f}", flush=True
            )
            result[f"python_threads_{count}_torch_{threads}"] = round(found, 3)
        alone = _processes(1, threads, args)[0]
        two = _processes(2, threads, args)
        share = [pace / alone for pace in two]
        print(
            f"torch with {threads} thread(s): two processes keep {share[0]:.0%} and {share[1]:.0%} of one's pace alone"
        )
        result[f"two_processes_torch_{threads}"] = [round(pace, 3) for pace in share]
    print(json.dumps(result))


def _together(model, pictures, count: int, args) -> float:
    """How many times as fast `count` Python threads are as one, the median over pairs."""

    def ask(number: int) -> None:
        model.predict(pictures[number % len(pictures)], "<OD>")

    def in_turn() -> float:
        started = time.perf_counter()
        for number in range(args.asks):
            ask(number)
        return time.perf_counter() - started

    def together() -> float:
        with ThreadPoolExecutor(count) as pool:
            started = time.perf_counter()
            list(pool.map(ask, range(args.asks)))
            return time.perf_counter() - started

    in_turn()
    pairs = []
    for number in range(args.pairs):
        first, second = (in_turn, together) if number % 2 else (together, in_turn)
        times = {first: first(), second: second()}
        pairs.append(times[in_turn] / times[together])
    return statistics.median(pairs)


def _processes(count: int, threads: int, args) -> list[float]:
    """Asks a second of each of `count` processes that compute at the same time."""
    command = [sys.executable, "-m", "benchmarks.sharing", "--worker", str(threads), "--asks", str(args.asks)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in started]


def _work(args, pictures) -> None:
    model = florence2.load("nano", threads=args.worker)
    model.predict(pictures[0], "<OD>")
    print("ready", flush=True)
    sys.stdin.readline()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 4:
        model.predict(pictures[done % len(pictures)], "<OD>")
        done += 1
    print(done / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
