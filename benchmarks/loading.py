"""How long a checkpoint takes to load beside transformers, and how much memory at its peak. One JSON line last.

    python benchmarks/loading.py [base|large ...]        random weights of the real sizes, float32, in /tmp

Each load runs in a process of its own, ours and transformers' in turn; the clock starts after the imports. The peak is
the process's highest resident size less what it had before the load, over the size of the file. The file is in the
page cache for both.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 5
MEASURE = """
import json, re, sys, time, torch
{imports}

def resident():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

open("/proc/self/clear_refs", "w").write("5")  # the highest so far is what is resident now
torch.set_num_threads(2)
before = resident()
start = time.perf_counter()
model = {load}
seconds = time.perf_counter() - start
peak = resident() - before
assert all(p.dtype == torch.float32 and not p.is_meta for p in model.parameters())
print(json.dumps([seconds, peak * 1024]))
"""
LOADERS = {
    "florence2": ("from florence2.model.checkpoint import load_model", "load_model(sys.argv[1])"),
    "transformers": (
        "from transformers import Florence2ForConditionalGeneration as F",
        "F.from_pretrained(sys.argv[1], dtype=torch.float32)",
    ),
}


def write(size: str, folder: Path) -> int:
    """A checkpoint of a published size in transformers' layout, random weights; its bytes."""
    import torch
    from safetensors.torch import load_file, save_file

    from florence2.model.checkpoint import save_model
    from florence2.model.florence import Florence
    from florence2.model.model_config import SIZES

    with torch.device("meta"):
        model = Florence(SIZES[size])
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.uniform_(-0.05, 0.05)
    save_model(model, folder, "transformers")
    file = folder / "model.safetensors"
    save_file(load_file(file), file, {"format": "pt"})  # as it is published: without our checksums
    return (folder / "model.safetensors").stat().st_size


def measure(loader: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak bytes of one load in a new process."""
    imports, load = LOADERS[loader]
    code = MEASURE.format(imports=imports, load=load)
    environment = {**os.environ, "PYTHONPATH": ".", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main(sizes: list[str]) -> None:
    """Write, load in turn, print."""
    results: dict[str, float] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            held = write(size, Path(folder))
            print(f"{size}, float32, {held / 1e9:.2f} GB")
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADERS}
            for _ in range(RUNS):
                for name in LOADERS:
                    runs[name].append(measure(name, Path(folder)))
            for name, rows in runs.items():
                seconds = statistics.median(row[0] for row in rows)
                peak = max(row[1] for row in rows) / held
                print(f"  {name:<13} {seconds:6.2f} s   peak {peak:.2f} of the file")
                results |= {f"{size}_{name}_s": round(seconds, 3), f"{size}_{name}_peak": round(peak, 3)}
            results[f"{size}_ratio"] = round(results[f"{size}_florence2_s"] / results[f"{size}_transformers_s"], 3)
    print(json.dumps({"benchmark": "loading", **results}))


if __name__ == "__main__":
    main(sys.argv[1:] or ["base", "large"])
