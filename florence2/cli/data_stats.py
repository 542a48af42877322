"""florence2 data duplicates|stats: pictures that are the same, within and between parts; a data set in numbers."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from florence2 import arguments
from florence2.labels import fold_spaces

if TYPE_CHECKING:
    from florence2.cli.progress import ProgressBars
    from florence2.engine.curation.paper_statistics import PaperStatistics
    from florence2.engine.curation.statistics import Statistics
    from florence2.engine.ingest.duplicates import HashedPicture

EPILOG = """duplicates: of one PATH the parts are its splits (its own, else by each file's name, as --split takes them);
of several, each is a part: florence2 data duplicates TRAIN TEST. Exit code 1 where two parts share a picture."""


LONGEST = 40  # letters of a label in a table


def main(argv: Sequence[str]) -> int:
    """Parse, read every picture, print."""
    args = _parser().parse_args(argv)
    from florence2.cli.progress import ProgressBars

    with ProgressBars(args.quiet) as bars:
        return duplicates(args, bars) if args.action == "duplicates" else stats(args)


def duplicates(args: argparse.Namespace, bars: ProgressBars) -> int:
    """Print every pair, and how many are shared by parts."""
    from florence2.engine.ingest.duplicates import duplicates, of_path

    unread: list[str] = []

    def pictures() -> Iterator[HashedPicture]:
        for path in args.paths:
            for picture in of_path(path, bars, unread.append):
                yield replace(picture, part=path) if len(args.paths) > 1 else picture

    counts: Counter[str] = Counter()
    for pair in duplicates(pictures(), args.bits, unread.append, bars):
        counts.update([pair.kind, *["leaks"] * pair.leaks])
        if args.json:
            print(json.dumps(pair.to_json()))
            continue
        sides = [f"{p.part}: {p.uri}" + ("" if p.kept else " (rejected)") for p in (pair.first, pair.second)]
        print(f"{pair.kind} ({pair.bits} bits)  {'  =  '.join(sides)}{'  LEAK' if pair.leaks else ''}")
    if unread:
        print(f"{len(unread)} pictures cannot be read, such as {unread[0]}", file=sys.stderr)
    if not args.json:
        print(f"{counts['exact']} exact, {counts['near']} near; {counts['leaks']} shared by two parts")
    return 1 if counts["leaks"] else 0


def stats(args: argparse.Namespace) -> int:
    """Print a store, or a data set in a known format, in numbers."""
    from florence2 import sources
    from florence2.engine.curation.paper_statistics import paper_statistics
    from florence2.engine.curation.statistics import of_samples, statistics
    from florence2.store import Store, is_store

    arguments.whole("--labels", args.labels, least=1)
    (path,) = args.paths if len(args.paths) == 1 else [None]
    if path is None:
        raise ValueError(f"stats: expected one PATH, got {len(args.paths)}")
    if is_store(path):
        store = Store(path)
        found, paper = statistics(store), paper_statistics(store.samples())
    else:
        found, paper = of_samples(sources.open(path)), paper_statistics(sources.open(path))
    if args.json:
        print(json.dumps({**found.to_json(), "paper": paper.to_json()}))
    else:
        print(_plain(found, args.labels), _beside_paper(paper), sep="\n\n")
    return 0


def _beside_paper(paper: PaperStatistics) -> str:
    """The paper's tables of this data set, FLD-5B's values in brackets."""
    from florence2.engine.curation import paper_statistics as paper_numbers

    names = ("annotations", "tokens", "regions", "mean_regions", "region_tokens")
    lines = ["as the paper counts (FLD-5B in brackets)", f"{'':<34}" + "".join(f"{name:>22}" for name in names)]
    for key, row in paper.rows.items():
        theirs = paper_numbers.FLD5B[key]
        cells = (_cell(getattr(row, name), getattr(theirs, name)) for name in names)
        lines.append(f"{' '.join(key):<34}" + "".join(f"{cell:>22}" for cell in cells))
    if paper.semantic:
        lines += ["", f"{'a text has':<34}" + "".join(f"{kind:>22}" for kind in paper.semantic)]
        for n, name in enumerate(paper_numbers.SEMANTIC):
            cells = (_cell(v[n], paper_numbers.FLD5B_SEMANTIC[kind][n]) for kind, v in paper.semantic.items())
            lines.append(f"{name.replace('_', ' '):<34}" + "".join(f"{cell:>22}" for cell in cells))
    if paper.unparsed:
        lines.append(f"semantic coverage {paper.unparsed}")
    return "\n".join(lines)


def _cell(ours: float | None, theirs: float | None) -> str:
    if ours is None:
        return ""
    return f"{_short(ours)} ({_short(theirs or 0)})"


def _short(value: float) -> str:
    return f"{value / 1e6:,.0f}M" if value >= 1e7 else f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}"


def _plain(found: Statistics, labels: int) -> str:
    plain = found.to_json()
    lines = [f"{name:<10} " + ", ".join(f"{n} {word}" for word, n in plain[key].items()) for name, key in
             (("pictures", "images"), ("because", "image_reasons"), ("splits", "splits"), ("boxes", "box_area_shares"))
             if plain[key]]  # fmt: skip
    if found.images:
        lines.append(f"{'shared':<10} {found.across} pictures by two splits, {found.leaks} of them not rejected")
    lines.append(f"\n{'family':<20}{'kind':<15}{'pictures':>9}{'annotations':>13}{'words each':>12}{'regions':>9}")
    lines += [
        f"{row.family:<20}{row.kind:<15}{row.images:>9}{row.annotations:>13}{row.to_json()['mean_words']:>12}{row.regions:>9}"
        for row in found.rows
    ]
    top = found.labels.most_common(labels)
    lines.append(f"\n{len(found.labels)} labels: " + ", ".join(f"{_cut(label)} {n}" for label, n in top))
    return "\n".join(lines) + (", ..." if len(top) < len(found.labels) else "")


def _cut(label: str) -> str:
    """A label on one line of a table: its first LONGEST letters."""
    label = fold_spaces(label)
    return label if len(label) <= LONGEST else f"{label[:LONGEST]}..."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "florence2 data", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("duplicates", "stats"))
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a store or a folder in a known format; for duplicates a folder of pictures, too",
    )
    parser.add_argument("--bits", type=int, default=4, metavar="N",
                        help="of 64 bits of a hash: pictures so near are compared by pixels (4; to 7)")  # fmt: skip
    parser.add_argument("--labels", type=int, default=20, metavar="N", help="how many labels stats shows (20)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser
