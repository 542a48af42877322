"""The public checkpoints beside transformers: opened, asked about real pictures, compared token for token.

    make official                                five public checkpoints, about 5 GB from the hub; some hours on a CPU
    make official ARGS="--device cuda"           the same on a GPU
    python -m benchmarks.official ID_OR_FOLDER ... --out PAGE           any other checkpoints
    make official DRY=1                          tiny random checkpoints of every layout; nothing is fetched

Writes docs/official.md (dry: build/official.md), prints a table and, last, one JSON line. Exit code 1 where something
differs or could not be opened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.official.compare import INPUTS, Plan, Result, Vector, equal_tensors, examined
from benchmarks.official.dry import dry_plan
from benchmarks.official.page import page, table
from florence2 import pixels
from florence2.codec.tasks import TASKS, task_of
from florence2.demo import photographs

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = (
    "microsoft/Florence-2-base",
    "microsoft/Florence-2-base-ft",
    "microsoft/Florence-2-large",
    "microsoft/Florence-2-large-ft",
    "florence-community/Florence-2-base",
)
TWINS = (("microsoft/Florence-2-base", "florence-community/Florence-2-base"),)  # one model, converted by others
FETCHED = {"car": "transformers/tasks/car.jpg", "street": "transformers/tasks/australia.jpg"}
FETCHED_FROM = "huggingface/documentation-images"
WHEELS = (2, 0, 28884, 2507, 50413, 50839, 51139, 51047, 28884, 2507, 50980, 50842, 51135, 51043, 28884, 2507,
          50417, 50848, 50573, 51043, 2)  # fmt: skip
OBJECTS = (2, 0, 5901, 50322, 50602, 51202, 51043, 11219, 3679, 50694, 50772, 50743, 50784, 13630, 50978, 50845,
           51134, 51041, 50419, 50853, 50578, 51042, 2)  # fmt: skip
OF_BASE: tuple[Vector, ...] = (("car", "<OPEN_VOCABULARY_DETECTION>wheels", WHEELS), ("car", "<OD>", OBJECTS))
VECTORS = {name: OF_BASE for pair in TWINS for name in pair}


def main(argv: Sequence[str]) -> int:
    """Compare, write the page, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="hub ids or folders; without any, the public checkpoints")
    parser.add_argument("--dry", action="store_true", help="tiny random checkpoints of every layout instead")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="names without brackets; all 15 if left out")
    parser.add_argument("--tokens", type=int, default=1024, help="the most tokens of an answer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="the page")
    args = parser.parse_args(argv)
    tasks = [task_of(name).token for name in args.tasks]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pictures = dict(shipped_pictures(folder / "photos"))
        if args.dry:
            plan = dry_plan(folder, pictures, tasks)
        else:
            try:
                pictures = {**fetched_pictures(), **pictures}
            except OSError as error:
                if not args.sources:
                    return _offline(error)
            plan = Plan(args.sources or PUBLIC, pictures, tasks, args.tokens, args.device, TWINS, VECTORS)
        torch.backends.cudnn.allow_tf32 = False  # float32 is meant
        return run(plan, args.out or ROOT / ("build/official.md" if args.dry else "docs/official.md"), args.dry)


def run(plan: Plan, out: Path, dry: bool) -> int:
    """Examine every checkpoint; the page, after each of them; 1 where something differs or was not opened."""
    results: dict[str, Result | str] = dict.fromkeys(plan.sources, "not reached: the run was cut short")
    twins: list[tuple[str, str, int, int]] = []
    command = "make official" + (" DRY=1" if dry else "")
    out.parent.mkdir(parents=True, exist_ok=True)
    for source in plan.sources:
        print(f"{source} ...", flush=True)
        try:
            results[source] = examined(source, plan, lambda line: print(line, flush=True))
        except (OSError, ValueError) as error:
            results[source] = " ".join(str(error).split())
        opened = [name for name, result in results.items() if isinstance(result, Result)]
        pairs = [pair for pair in plan.twins if set(pair) <= set(opened) and pair not in [(a, b) for a, b, *_ in twins]]
        twins += [(a, b, *equal_tensors(a, b)) for a, b in pairs]
        out.write_text(page(plan, results, twins, command), encoding="utf-8")
    print(*table(results), f"page: {out}", sep="\n")
    found = [result for result in results.values() if isinstance(result, Result)]
    counts = {
        "benchmark": "official_dry" if dry else "official",
        "checkpoints": len(results),
        "opened": len(found),
        "answers": sum(len(result.asked) for result in found),
        "equal": sum(one.right for result in found for one in result.asked),
        "vectors": sum(len(result.vectors) for result in found),
        "vectors_equal": sum(right for result in found for _, right in result.vectors),
        "tensors_different": sum(unequal for *_, unequal in twins),
    }
    print(json.dumps(counts))
    whole = counts["opened"] == counts["checkpoints"] and not counts["tensors_different"]
    return int(not (whole and counts["equal"] == counts["answers"] and counts["vectors"] == counts["vectors_equal"]))


def shipped_pictures(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The photographs of scikit-image's wheel that there is something to ask about."""
    for path in sorted(photographs(folder).iterdir()):
        if path.stem in INPUTS:
            yield path.stem, pixels.load(path)


def fetched_pictures() -> dict[str, np.ndarray]:
    """The two pictures of which the base model's answers are published."""
    from huggingface_hub import hf_hub_download

    return {
        name: pixels.load(hf_hub_download(FETCHED_FROM, file, repo_type="dataset")) for name, file in FETCHED.items()
    }


def _offline(error: Exception) -> int:
    why = " ".join(str(error).split())[:200]
    print(
        f"official: {FETCHED_FROM}: cannot be fetched ({why}); this needs a network and about 5 GB: "
        "run it where there is one, or try the command itself with `make official DRY=1`",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
