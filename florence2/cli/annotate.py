"""florence2 annotate: run specialists over a folder of pictures, or over a store's own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from florence2.cli.dry_run import add_dry_run, show
from florence2.cli.journaling import add_journal, journal_of
from florence2.cli.runners import add_runner, runner_of
from florence2.cli.trusting import add_trust, trusted

if TYPE_CHECKING:
    from florence2.cli.progress import ProgressBars
    from florence2.engine.execution.annotation_phase import AnnotationReport
    from florence2.engine.ingest.inspection import ImageRules

EPILOG = """specialists, each seeing what it needs of those before it:
  rapidocr               text with its corners (RapidOCR)
  opencv                 faces, eyes, cats' faces (OpenCV's cascades)
  composer               captions of three lengths, written from the regions found
  grounder, grabcut      phrases of captions in boxes, masks in boxes
  student:MODEL          any Florence-2 that load opens: nano, a folder, a hub id
  simulated:TRUTH.jsonl  a file's truth with a stated noise, for trying things out
  CARD.yaml              an ONNX detector described by a card, or any specialist with its settings
  FILE.py:CLASS          your own
all of them, and their cards: docs/specialists.md

The same command again goes on where it was interrupted, and takes in new pictures. A specialist whose version,
weights or settings changed replaces its annotations, and whatever read that is run again."""


def main(argv: Sequence[str]) -> int:
    """Parse, annotate, print what this run did and what the store holds; 1 where a specialist gave nothing at all."""
    args = _parser().parse_args(argv)
    from florence2.cli.progress import ProgressBars
    from florence2.engine.commands import annotate
    from florence2.engine.ingest.inspection import ImageRules
    from florence2.sources.fetching import Fetching

    rules = ImageRules(**{f.name: getattr(args, f.name) for f in fields(ImageRules) if hasattr(args, f.name)})
    reports: dict[str, AnnotationReport] = {}
    hosts = tuple(host.strip() for host in (args.allow_urls or "").split(",") if host.strip())
    names = [name.strip() for name in args.with_.split(",") if name.strip()]
    with ProgressBars(args.quiet) as bars:
        if args.dry_run:
            return dry_run(args, names, rules, bars)
        trusted(args, args.out or args.source, bars.on_message)
        bars.journal = journal_of(args.log, args.metrics, bars.on_message)
        store = annotate(
            args.source,
            args.out,
            names,
            unit=args.unit,
            **runner_of(args),
            rules=rules,
            lease_s=args.lease,
            device=args.device,
            fetching=Fetching(hosts),
            dependents=not args.no_dependents,
            retry_failed=args.retry_failed,
            progress=bars,
            on_message=bars.on_message,
            reports=reports,
            journal=bars.journal,
        )
    counts, reasons = store.counts(), store.reasons()
    useless = [report.name for report in reports.values() if report.useless and not report.broken]
    broken = [report.name for report in reports.values() if report.broken]
    if args.json:
        now = {
            name: {"asked": r.asked, "failures": dict(r.failures), "quarantined": r.quarantined, "broken": r.broken}
            for name, r in reports.items()
        }
        print(json.dumps({"store": str(store.root), "run": now, **counts, "reasons": reasons}))
    else:
        print(describe_run(reports))
        print(describe(counts, reasons))
        print(f"{store.root}: snapshot {counts['snapshot']}; next: florence2 filter {store.root}")
    for name in useless:
        print(f"florence2 annotate: {name} failed on every picture and gave the store nothing", file=sys.stderr)
    return 1 if useless or broken else 0


def dry_run(args: argparse.Namespace, names: Sequence[str], rules: ImageRules, bars: ProgressBars) -> int:
    """Print what the same command without --dry-run would take."""
    from florence2.engine.estimating import estimate_annotate
    from florence2.engine.planning.simulation import Prices

    found = estimate_annotate(
        args.source,
        args.out,
        names,
        unit=args.unit,
        workers=args.workers,
        rules=rules,
        device=args.device,
        sample=args.sample,
        price_per_hour=args.price_per_hour,
        prices=Prices(gb_month=args.price_per_gb_month, per_1000_puts=args.price_per_1000_puts),
        on_message=bars.on_message,
    )
    show(found, args.write_rates, args.json)
    return 0


def describe_run(reports: Mapping[str, AnnotationReport]) -> str:
    """What each specialist did in this run, a line each; one that had nothing to do says so."""
    lines: list[str] = []
    idle = "nothing left to ask"
    for name, report in reports.items():
        failed = sum(report.failures.values())
        words = ", ".join(f"{n} {word}" for word, n in report.failures.most_common())
        what = f"asked about {report.asked}, answered {report.asked - failed}" if report.asked else idle
        what += f", failed on {failed} ({words})" if failed else ""
        if report.quarantined:
            what += f"; {report.quarantined} left alone that failed in three runs (--retry-failed asks them)"
        lines.append(f"{'this run' if not lines else '':12} {name}: {what}")
    return "\n".join(lines) or f"{'this run':12} no specialist"


def describe(counts: dict, reasons: dict) -> str:
    """Counts and reason words in three short lines."""

    def words(table: str) -> str:
        return ", ".join(f"{n} {word}" for word, n in sorted(reasons[table].items(), key=lambda e: -e[1]))

    images, annotations = counts["images"], counts["annotations"]
    lines = [f"pictures     {images['ok']} ok, {images['rejected']} rejected, {images['failed']} failed"]
    lines[0] += f", {images['missing']} missing" if images.get("missing") else ""
    lines[0] += f" ({words('images')})" if reasons["images"] else ""
    lines.append("annotations  " + ", ".join(f"{annotations[k]} {k}" for k in ("kept", "rejected", "superseded")))
    lines[1] += f" ({words('annotations')})" if reasons["annotations"] else ""
    if counts["failures"]:
        lines.append(f"failures     {counts['failures']} ({words('failures')})")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "florence2 annotate", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="a folder of pictures (subfolders; tars and Parquet or Arrow tables in it too), one .tar, .parquet or "
        ".arrow, hf:OWNER/NAME, a list of addresses (.txt, .csv, .tsv, .jsonl), or a store",
    )
    parser.add_argument("--out", help="the store to write; left out where SOURCE is a store")
    parser.add_argument("--with", dest="with_", default="rapidocr,opencv", metavar="A,B", help="default: %(default)s")
    parser.add_argument(
        "--unit", type=int, metavar="N", help="new pictures in a unit of work (64; of very many up to 512)"
    )
    add_runner(parser, "processes (one a core); 0: in this process")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    parser.add_argument("--lease", type=float, metavar="S", help="seconds a unit may take (learned from the others)")
    parser.add_argument("--allow-urls", metavar="H,H", help="hosts from which a list's addresses may be fetched")
    parser.add_argument("--no-dependents", action="store_true", help="only name what had read what is replaced")
    parser.add_argument("--max-pixels", type=int, default=argparse.SUPPRESS, metavar="N", help="over this: too_large")
    parser.add_argument("--min-side", type=int, default=argparse.SUPPRESS, metavar="N", help="under this: too_small")
    parser.add_argument(
        "--max-aspect", type=float, default=argparse.SUPPRESS, metavar="R", help="over this: odd_aspect"
    )
    parser.add_argument("--blank-range", type=int, default=argparse.SUPPRESS, metavar="N", help="up to this: blank")
    parser.add_argument("--near-duplicates", action="store_true", default=argparse.SUPPRESS, help="reject them too")
    parser.add_argument("--licence", action="store_true", default=argparse.SUPPRESS, help="reject pictures without one")
    parser.add_argument("--accept", default=argparse.SUPPRESS, metavar="FILE.py:FUNCTION", help="your own picture rule")
    parser.add_argument(
        "--retry-failed", action="store_true", help="ask again about pictures that failed in passing in three runs"
    )
    add_trust(parser)
    add_journal(parser)
    add_dry_run(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser
