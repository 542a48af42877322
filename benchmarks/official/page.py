"""The results as a page in Markdown: what was opened, what is equal, and the official rules beside the grammar."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone

import numpy as np
import torch
import transformers

import florence2
from benchmarks.official.compare import Asked, Plan, Result
from florence2.geometry import iou

SHOWN = 200  # letters of an answer
LISTED = 12  # differences of a checkpoint that are written out
OVERLAP = 0.5

Results = Mapping[str, "Result | str"]
Twins = Sequence[tuple[str, str, int, int]]


def page(plan: Plan, results: Results, twins: Twins, command: str) -> str:
    """The whole page."""
    parts = [_head(plan, command), _opened(results), _vectors(results, twins), _equal(results), _beside(results)]
    return "\n\n".join(parts) + "\n"


def table(results: Results) -> Iterator[str]:
    """The same in a few lines for the terminal."""
    for source, result in results.items():
        if isinstance(result, str):
            yield f"{source}: NOT OPENED: {result}"
        else:
            right, known = sum(one.right for one in result.asked), sum(ok for _, ok in result.vectors)
            yield (
                f"{source}: {result.report.layout} layout, {right} of {len(result.asked)} answers equal to "
                f"transformers', {known} of {len(result.vectors)} published vectors"
            )


def _head(plan: Plan, command: str) -> str:
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    device = torch.cuda.get_device_name() if plan.device.startswith("cuda") else f"a CPU ({platform.machine()})"
    return (
        f"# The public checkpoints beside transformers\n\nWritten by `{command}` on {day}: florence2 "
        f"{florence2.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, float32 on "
        f"{device}.\nPictures: {', '.join(plan.pictures)}; at most {plan.tokens} tokens an answer; "
        f"{len(plan.tasks)} tasks a picture."
    )


def _opened(results: Results) -> str:
    rows = []
    for source, result in results.items():
        if isinstance(result, str):
            rows.append((source, f"not opened: {result}", *[""] * 7))
            continue
        facts = result.report.facts
        rows.append(
            (
                source,
                result.report.layout + (", an adapter merged" if facts["adapter"] else ""),
                ", ".join(facts["weights"]),
                facts["dtype"],
                f"{facts['parameters']:,}",
                facts["text"]["positions"],
                f"{facts['vocabulary_rows']} ({facts['added_tokens_appended']} tokens appended)",
                "tied" if facts["tied_head"] else "apart",
                f"{result.load_seconds:.1f} s",
            )
        )
    notes = [
        f"* {source}: {text}"
        for source, result in results.items()
        if isinstance(result, Result)
        for text in (*result.report.problems, *result.report.notes)
    ]
    heads = ("checkpoint", "layout", "files", "type", "parameters", "positions", "rows", "head", "loaded in")
    said = "\n\nWhat `florence2 doctor` says of them:\n\n" + "\n".join(notes) if notes else ""
    return "## Opened\n\n" + _table(heads, rows) + said


def _vectors(results: Results, twins: Twins) -> str:
    rows = []
    for source, result in results.items():
        if isinstance(result, Result) and result.vectors:
            wrong = [what for what, right in result.vectors if not right]
            count = f"{len(result.vectors) - len(wrong)} of {len(result.vectors)}"
            rows.append((source, count, ", ".join(f"**{what}**" for what in wrong) or "none"))
    lines = [
        f"* {first} and {second}: {equal} tensors bit-equal, {'none' if not unequal else f'**{unequal}**'} different"
        for first, second, equal, unequal in twins
    ]
    known = _table(("checkpoint", "equal", "different"), rows) if rows else "No checkpoint with published vectors."
    same = "\n\nOne model, two conversions:\n\n" + "\n".join(lines) if lines else ""
    return "## Published vectors\n\nPrompt ids, and the base model's answers about two pictures.\n\n" + known + same


def _equal(results: Results) -> str:
    rows, details = [], []
    for source, result in results.items():
        if isinstance(result, Result):
            for beams in sorted({one.beams for one in result.asked}):
                asked = [one for one in result.asked if one.beams == beams]
                counts = (sum(one.same_prompt for one in asked), sum(one.same for one in asked))
                rows.append((source, beams, len(asked), *counts, sum(one.same_dictionary for one in asked)))
            details += [_difference(source, one) for one in result.asked if not one.right][:LISTED]
    heads = ("checkpoint", "beams", "answers", "prompts equal", "ids equal", "dictionaries equal")
    listed = "\n\nDifferences:\n\n" + "\n".join(details) if details else "\n\nNo difference."
    return (
        "## The official rules beside transformers' `generate`\n\nToken for token. Where ids differ, nearly equal "
        "log-probabilities mean that a tie was broken otherwise.\n\n" + _table(heads, rows) + listed
    )


def _difference(source: str, one: Asked) -> str:
    ours, theirs = one.official.token_ids, one.theirs
    where = next((n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    what = [name for name, same in (("prompt", one.same_prompt), ("dictionary", one.same_dictionary)) if not same]
    if not one.same:
        gap = f"log-probability {one.totals[0]:.4f} and {one.totals[1]:.4f}"
        what.append(f"ids from token {where} of {len(ours)} and {len(theirs)}, {gap}")
    return f"* {source}, {one.picture}, `{one.official.task}`, {one.beams} beams: {'; '.join(what)}"


def _beside(results: Results) -> str:
    parts = [
        "## The official rules and the grammar",
        'Both by our decoding: the official rules with the checkpoint\'s beams, the grammar greedily. "Unread" counts '
        "answers with tokens that no item could use; overlap is the share of boxes for which the other answer has one "
        f"of the same name and IoU {OVERLAP}.",
    ]
    for source, result in results.items():
        if isinstance(result, Result):
            widest = max(one.beams for one in result.asked)
            asked = [one for one in result.asked if one.beams == widest]
            rows = [_row([one for one in asked if one.official.task == task]) for task in _tasks(asked)]
            heads = ("task", "answers", "same", "items", "unread", "cut", "overlap", "tokens", "score by the grammar")
            first = [one for one in asked if one.picture == asked[0].picture]
            said = [(f"`{one.official.task}`", _short(one.official), _short(one.grammar)) for one in first]
            parts += [f"### {source}\n\nNumbers are official / grammar.", _table(heads, rows)]
            parts += [f"About {first[0].picture}:", _table(("task", "official", "grammar"), said)]
    return "\n\n".join(parts)


def _row(asked: Sequence[Asked]) -> tuple[object, ...]:
    pairs = [(one.official, one.grammar) for one in asked]
    items = [sum(len(answer) for answer in side) for side in zip(*pairs)]
    cut = [sum(answer.truncated for answer in side) for side in zip(*pairs)]
    tokens = [sum(len(answer.token_ids) for answer in side) for side in zip(*pairs)]
    scores = [item.score for _, grammar in pairs for item in grammar if item.score is not None]
    return (
        f"`{asked[0].official.task}`",
        len(asked),
        sum(ours.token_ids[2:] == free.token_ids[2:] for ours, free in pairs),
        f"{items[0]} / {items[1]}",
        f"{sum(one.unread > 0 for one in asked)} / 0",
        f"{cut[0]} / {cut[1]}",
        f"{_overlap(pairs)} / {_overlap([(free, ours) for ours, free in pairs])}",
        f"{tokens[0]} / {tokens[1]}",
        f"{np.mean(scores):.2f}" if scores else "",
    )


def _overlap(pairs: Sequence[tuple[florence2.Answer, florence2.Answer]]) -> str:
    """The share of the first answers' boxes that the second answers have as well."""
    found = boxes = 0
    for one, other in pairs:
        if len(one.xyxy):
            boxes += len(one.xyxy)
            near = iou(one.xyxy, other.xyxy) >= OVERLAP
            found += int((near & (one.labels[:, None] == other.labels[None])).any(1).sum())
    return f"{found / boxes:.2f}" if boxes else "-"


def _tasks(asked: Sequence[Asked]) -> list[str]:
    return list(dict.fromkeys(one.official.task for one in asked))


def _short(answer: florence2.Answer) -> str:
    """What was generated, in one line, as code that a table can hold."""
    text = " ".join(answer.text.removeprefix("</s>").split()).replace("|", "\\|").replace("`", "'")
    return f"`{text[:SHOWN]}{' ...' if len(text) > SHOWN else ''}`"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
