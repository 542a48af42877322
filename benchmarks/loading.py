"""How long a checkpoint takes to load, and to its first answer, beside transformers; peak memory. One JSON line last.

    python benchmarks/loading.py [base|large ...]        random weights of the real sizes, float32, in /tmp

Each load runs in a process of its own, ours and transformers' in turn; the clock starts after the imports. The peak is
the process's highest resident size less what it had before the load, over the size of the file. The file is in the
page cache for both. The first answer: greedy, 16 tokens about one picture, with whatever is made at a first call (ours
chooses its products, by what was measured on this machine before, and packs weights for them).
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
pixels, ids = torch.randn(1, 3, 768, 768), torch.arange(100, 108)[None]
start = time.perf_counter()
model = {load}
seconds = time.perf_counter() - start
peak = resident() - before
assert all(p.dtype == torch.float32 and not p.is_meta for p in model.parameters())
with torch.inference_mode():
    found = {answer}
print(json.dumps([seconds, peak * 1024, time.perf_counter() - start, (resident() - before) * 1024, len(found)]))
"""
TOKENS = 16
LOADERS = {
    "florence2": (
        "from florence2.decoding.generate import Rules, generate\n"
        "from florence2.model import tiers\n"
        "from florence2.model.checkpoint import load_model",
        "load_model(sys.argv[1])",
        "tiers.accelerate(model) and generate(model, model.encode_image(pixels), ids, torch.ones_like(ids), "
        f"[{TOKENS}], None, Rules(num_beams=1))[0].ids",
    ),
    "transformers": (
        "from transformers import Florence2ForConditionalGeneration as F",
        "F.from_pretrained(sys.argv[1], dtype=torch.float32)",
        "model.generate(pixel_values=pixels, input_ids=torch.cat([torch.full((1, 577), 51289), ids], 1), "
        f"max_new_tokens={TOKENS}, num_beams=1, do_sample=False, no_repeat_ngram_size=3, forced_bos_token_id=0, "
        "bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)[0].tolist()",
    ),
}


def write(size: str, folder: Path) -> int:
    """A checkpoint of a published size in transformers' layout, random weights; its bytes."""
    import dataclasses

    from safetensors.torch import load_file, save_file

    from benchmarks.twin_models import calm
    from florence2.model.checkpoint import save_model
    from florence2.model.model_config import SIZES
    from tests.parity.twins import lively

    config = SIZES[size]
    config = dataclasses.replace(config, image_id=51289, text=dataclasses.replace(config.text, vocab_size=51328))
    model = calm(lively(config, eos=-3.0))
    save_model(model, folder, "transformers")
    file = folder / "model.safetensors"
    save_file(load_file(file), file, {"format": "pt"})  # as it is published: without our checksums
    return (folder / "model.safetensors").stat().st_size


def measure(loader: str, folder: Path) -> tuple[float, float, float, float]:
    """Seconds and peak bytes of one load in a new process, and both up to the first answer."""
    imports, load, answer = LOADERS[loader]
    code = MEASURE.format(imports=imports, load=load, answer=answer)
    environment = {**os.environ, "PYTHONPATH": ".", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    seconds, peak, to_answer, answer_peak, length = json.loads(done.stdout.splitlines()[-1])
    assert length == TOKENS + 1, f"{loader}: {length - 1} tokens"
    return seconds, peak, to_answer, answer_peak


def main(sizes: list[str]) -> None:
    """Write, load in turn, print."""
    results: dict[str, float] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            held = write(size, Path(folder))
            print(f"{size}, float32, {held / 1e9:.2f} GB")
            runs: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in LOADERS}
            for _ in range(RUNS):
                for name in LOADERS:
                    runs[name].append(measure(name, Path(folder)))
            for name, rows in runs.items():
                seconds, first = (statistics.median(row[place] for row in rows) for place in (0, 2))
                peak, first_peak = (max(row[place] for row in rows) / held for place in (1, 3))
                print(
                    f"  {name:<13} {seconds:6.2f} s   peak {peak:.2f} of the file; "
                    f"to the first answer {first:6.2f} s, {first_peak:.2f}"
                )
                results |= {f"{size}_{name}_s": round(seconds, 3), f"{size}_{name}_peak": round(peak, 3)}
                results |= {
                    f"{size}_{name}_answer_s": round(first, 3),
                    f"{size}_{name}_answer_peak": round(first_peak, 3),
                }
            for what, key in (("s", "ratio"), ("answer_s", "ratio_to_first_answer")):
                ours, theirs = results[f"{size}_florence2_{what}"], results[f"{size}_transformers_{what}"]
                results[f"{size}_{key}"] = round(ours / theirs, 3)
    print(json.dumps({"benchmark": "loading", **results}))


if __name__ == "__main__":
    main(sys.argv[1:] or ["base", "large"])
