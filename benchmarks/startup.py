"""How long `import florence2` and `florence2 --help` take over the bare interpreter. One JSON line last."""

import json
import statistics
import subprocess
import sys
import time

RUNS = 9
CASES = {
    "python": [sys.executable, "-c", "pass"],
    "import florence2": [sys.executable, "-c", "import florence2"],
    "florence2 --help": [sys.executable, "-m", "florence2", "--help"],
}


def main() -> None:
    """Alternate the three commands; print the medians in seconds."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):
        for name, command in CASES.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<18} {seconds:.3f} s")
    print(json.dumps({"benchmark": "startup", **{k: round(v, 4) for k, v in medians.items()}}))


if __name__ == "__main__":
    main()
