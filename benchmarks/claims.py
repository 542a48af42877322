"""The paper's claims in small: does a student beat the labels that it was taught, and what makes it so.

    python benchmarks/claims.py [--piece NAME ...] [--size SIZE] [--quick] [--out DIR] [--limit N] [--table]
                                [--real bccd=PATH ...] [--plot FILE.svg]

Pieces: controls (what labels, steps, rate and replay do to a student), noise (three kinds of errors; one student, two
rounds), methods (each alone), regions (which text describes a region), bootstrapping (a kind of text from a few
examples), pretraining (granularity, scaling, parts), real (labels of real sets spoilt likewise; asked for by
`--real NAME=PATH`). Each arm is a student trained on labels of drawn scenes and asked about others; its answers' counts
are one JSON line in DIR (runs/claims), and what is there is not computed again: interrupted, the same command goes on.
Unless a size is named, noise and real are measured at full and the other pieces at small: about nine hours of one core
for three seeds. `--limit` ends after so many new arms. Intervals are of paired resamples of the test pictures, over
all seeds. Last line JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from claims_parts import bootstrapping, controls, methods, noise, plots, pretraining, real, regions, tables
from claims_parts.setting import SIZES, Results

SIZE = {"noise": "full", "real": "full"}  # of a piece where none is named; of others
OTHERS = "small"
PIECES = {
    "controls": controls.run,
    "noise": noise.run,
    "methods": methods.run,
    "regions": regions.run,
    "bootstrapping": bootstrapping.run,
    "pretraining": pretraining.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--piece", action="append", choices=[*PIECES, "real"], help="(all)")
    parser.add_argument("--size", choices=list(SIZES), help="of everything (noise and real full, the others small)")
    parser.add_argument("--quick", action="store_true", help="the same as --size quick")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--seeds", type=int, help="repetitions (those of the size)")
    parser.add_argument("--limit", type=int, help="end after so many new arms")
    parser.add_argument("--table", action="store_true", help="compute nothing; show what is there")
    parser.add_argument("--real", action="append", default=[], metavar="NAME=PATH", help="a real set of boxes")
    parser.add_argument("--plot", type=Path, help="an SVG of the arms")
    args = parser.parse_args()
    try:
        measure(args)
    except (ValueError, OSError) as error:
        parser.exit(1, f"claims: {error}\n")


def measure(args: argparse.Namespace) -> None:
    """Compute what was asked for and is not there, and show it; ValueError says in one line what cannot be."""
    checked(args)
    pieces = {**PIECES, "real": functools.partial(real.run, dict(pair.split("=", 1) for pair in args.real))}
    made: list[Results] = []
    figures, sizes = {}, {}
    for piece in args.piece or list(pieces):
        sizes[piece] = "quick" if args.quick else args.size or SIZE.get(piece, OTHERS)
        results = Results(args.out, SIZES[sizes[piece]])
        made.append(results)
        more = allowance(made, 0 if args.table else args.limit)
        pieces[piece](results, args.out, range(args.seeds or results.size.seeds), more)
        figures[piece] = tables.show(f"{piece}, {sizes[piece]}", piece, results.of(piece))
    if args.plot:
        plots.plot(figures, args.plot)
    print(json.dumps({"benchmark": "claims", "sizes": sizes, **figures}))


def checked(args: argparse.Namespace) -> None:
    """ValueError names what is asked for and cannot be."""
    if args.quick and args.size not in (None, "quick"):
        raise ValueError(f"--quick is a size of its own; leave out it or --size {args.size}")
    if args.seeds is not None and args.seeds < 1 or args.limit is not None and args.limit < 0:
        raise ValueError("expected --seeds of at least 1 and --limit of at least 0")
    if args.plot and (args.plot.suffix != ".svg" or not args.plot.parent.is_dir()):
        raise ValueError(f"--plot {args.plot}: expected a file.svg in a folder that is there")
    if args.table and not args.out.is_dir():
        raise ValueError(f"--out {args.out}: no such folder; nothing was computed there")
    for pair in args.real:
        name, equals, path = pair.partition("=")
        if not name or not equals or not Path(path).exists():
            raise ValueError(f"--real {pair}: expected NAME=PATH of a data set that is there")


def allowance(made: Sequence[Results], limit: int | None) -> Callable[[], bool]:
    """Whether another arm may be computed; those that are there cost nothing."""
    return lambda: limit is None or sum(results.made for results in made) < limit


if __name__ == "__main__":
    main()
