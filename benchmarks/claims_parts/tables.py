"""Results as tables: F1 of each arm over its seeds, with intervals, and paired differences."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from claims_parts import pretraining, setting

OF_THEM, OF_TRUTH = "a student of them", "a student of the truth"


def show(title: str, piece: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a piece's table; its figures by arm."""
    print(f"\n## {title}\n")
    if any("metrics" in line for line in lines):
        return metrics_of(lines)
    groups = piece not in ("real", "regions")  # their pictures have no kinds that were withheld
    head = " (scenes without, with unseen kinds)" if groups else ""
    print(f"| arm | seeds | labels taught, or of a round | F1{head} | interval | beside | difference | by seed |")
    print("|---|---|---|---|---|---|---|---|")
    figures = {}
    arms = by_arm([line for line in lines if line["counts"]])
    for arm, found in arms.items():
        other = beside(piece, arm)
        figures[arm] = row = {**figures_of(found), **difference_of(found, arms.get(other, []), other)}
        row |= recovered(arms, arm, other)
        how = _shown(row)
        how += f", {row['recovered']:.0%} of the truth's" if "recovered" in row else ""
        seeds = ", ".join(f"{value:.3f}" for value in row["by_seed"])
        parts = f" ({row['seen']:.3f}, {row['unseen']:.3f})" if groups else ""
        print(
            f"| {arm} | {len(found)} | {'' if row['labels'] is None else format(row['labels'], '.3f')} "
            f"| {row['all']:.3f}{parts} "
            f"| {row['interval'][0]:.3f}-{row['interval'][1]:.3f} | {row.get('beside', '')} | {how} | {seeds} |"
        )
    rounds(arms)
    return figures


def rounds(arms: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Print what each round made of the labels of the store's own pictures, and of its students beside those before."""
    found = [match for match in map(re.compile(r"(.*): students of round (\d+)(.*)").fullmatch, arms) if match]
    if not found or not all("filtered" in line for match in found for line in arms[match[0]]):
        return
    print(
        "\n| errors | round | asked | seeds | labels before | labels | difference | students | from the round before |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for errors, number, asked in (match.groups() for match in found):
        past = {line["seed"]: line for line in arms.get(f"{errors}: students of round {int(number) - 1}{asked}", [])}
        now = arms[f"{errors}: students of round {number}{asked}"]
        now = [line for line in now if number == "1" or line["seed"] in past]
        before = [dict(line, counts=past[line["seed"]]["labels"] if past else line["filtered"]) for line in now]
        after = [dict(line, counts=line["labels"]) for line in now]
        if now:
            f1s = [float(np.mean([_f1(line) for line in lines])) for lines in (before, after, now)]
            changed = [_shown(difference_of(*sides, "")) for sides in ((after, before), (now, list(past.values())))]
            print(
                f"| {errors} | {number} | {asked.lstrip(', ') or 'as they are'} | {len(now)} | {f1s[0]:.3f} "
                f"| {f1s[1]:.3f} | {changed[0]} | {f1s[2]:.3f} | {changed[1]} |"
            )


def _shown(row: Mapping[str, Any]) -> str:
    """A difference and its interval; nothing where there is none."""
    if "difference" not in row:
        return ""
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(row["difference"], *row["difference_interval"])


def beside(piece: str, arm: str) -> str:
    """The arm that another is compared with: its labels, its start, or the same without the method."""
    if piece in ("noise", "real"):
        return f"{arm.partition(': ')[0]}: labels"
    if piece == "methods":
        plain = f"{arm.split(';')[0]}"
        if arm.endswith("; scores from 0.3") and "views" in arm:
            trained_otherwise = "not scored" in arm or "dense" in arm
            return f"{plain}; four views; scores from 0.3" if trained_otherwise else f"{plain}; scores from 0.3"
        return arm.partition("; more above")[0] if "; more above" in arm else plain
    return {"controls": "nano as it is", "bootstrapping": arm.replace("nano", "nothing")}.get(piece, "")


def difference_of(found: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The mean difference from another arm over the seeds of both, its interval over the same resamples of pictures."""
    theirs = {line["seed"]: line for line in other}
    pairs = [(line, theirs[line["seed"]]) for line in found if line["seed"] in theirs]
    pairs = [(a, b) for a, b in pairs if a is not b]
    if not pairs:
        return {}
    for a, b in pairs:
        if len(a["counts"]) != len(b["counts"]):
            raise ValueError(
                f"{a['arm']!r} was counted on {len(a['counts'])} pictures and {name!r} on {len(b['counts'])}; "
                "take the line of the wrong one out, and it is computed again"
            )
    tables = [[np.asarray(line["counts"], float) for line in side] for side in zip(*pairs)]
    one, two = (setting.resampled(side).mean(1) for side in tables)
    mean = float(np.mean([setting.f1(a.sum(0)) - setting.f1(b.sum(0)) for a, b in zip(*tables)]))
    low, high = setting.interval(one - two)
    return {"beside": name, "difference": round(mean, 4), "difference_interval": [round(low, 4), round(high, 4)]}


def recovered(arms: Mapping[str, Sequence[dict[str, Any]]], arm: str, labels: str) -> dict[str, float]:
    """What share of the gain over the labels that a student of the truth has one of the labels has, by seeds of all;
    none where that gain is not told from nothing."""
    best = re.sub(f"{OF_THEM}(, ends not scored)?|students of round \\d", OF_TRUTH, arm)
    if best == arm or best not in arms or labels not in arms:
        return {}
    gain = difference_of(arms[best], arms[labels], labels)
    if not gain or gain["difference_interval"][0] <= 0:
        return {}
    by_seed = [{line["seed"]: _f1(line) for line in arms[name]} for name in (labels, arm, best)]
    seeds = set.intersection(*map(set, by_seed))
    low, own, high = (sum(values[seed] for seed in seeds) for values in by_seed)
    return {"recovered": round((own - low) / (high - low), 4)} if seeds and high > low else {}


def _f1(line: Mapping[str, Any]) -> float:
    return float(setting.f1(np.asarray(line["counts"], float).sum(0)))


def metrics_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the main metrics of several tasks by arm: the mean over seeds, its interval, that of the difference."""
    tasks, arms = list(lines[0].get("metrics", ())), by_arm(lines)
    for line in lines:
        if list(line.get("metrics", ())) != tasks:
            raise ValueError(
                f"arm {line['arm']!r} of seed {line['seed']}: expected metrics of {tasks}; take its line out"
            )
    print(f"| arm | seeds | beside | {' | '.join(tasks)} |\n|---|---|---{'|---' * len(tasks)}|")
    figures: dict[str, Any] = {}
    for arm, found in arms.items():
        other = pretraining.BESIDE.get(arm, "")
        figures[arm] = {task: metric_of(task, found, arms.get(other, [])) for task in tasks}
        cells = []
        for row in figures[arm].values():
            cell = f"{row['all']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"
            if "difference" in row:
                cell += f", {_shown(row)}"
            cells.append(cell)
        print(f"| {arm} | {len(found)} | {other} | {' | '.join(cells)} |")
    return figures


def metric_of(task: str, found: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A metric's mean over seeds and its difference from another arm's, over the seeds of both; resamples put about
    the score (a picture drawn twice lifts AP)."""

    def mean(each: Sequence[dict[str, Any]]) -> tuple[float, np.ndarray]:
        value = float(np.mean([line["metrics"][task] for line in each]))
        draws = np.mean([line["draws"][task] for line in each], axis=0)
        return value, draws - draws.mean() + value

    value, draws = mean(found)
    seeds = {line["seed"] for line in found} & {line["seed"] for line in other}
    by_seed = [line["metrics"][task] for line in found]
    row = {"all": round(value, 4), "interval": [round(v, 4) for v in setting.interval(draws)], "by_seed": by_seed}
    if seeds:
        (one, own), (two, theirs) = (mean([line for line in side if line["seed"] in seeds]) for side in (found, other))
        span = setting.interval(own - theirs)
        row |= {"difference": round(one - two, 4), "difference_interval": [round(v, 4) for v in span]}
    return row


def by_arm(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each arm, arms of one kind of errors or one set together."""
    out = defaultdict(list)
    for line in lines:
        out[line["arm"]].append(line)
    kinds = list(dict.fromkeys(arm.partition(": ")[0] for arm in out))
    return {arm: out[arm] for arm in sorted(out, key=lambda arm: kinds.index(arm.partition(": ")[0]))}


def figures_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean F1 over seeds of each group of scenes, and the interval of that of all."""
    by_group: dict[str, list[float]] = {name: [] for name in setting.GROUPS}
    for line in found:
        for name, table in setting.groups(line["counts"]):
            by_group[name].append(float(setting.f1(table.sum(0))))
    draws = setting.resampled([np.asarray(line["counts"], float) for line in found]).mean(1)
    taught = [float(setting.f1(np.asarray(line["labels"], float).sum(0))) for line in found if "labels" in line]
    return {
        **{name: round(float(np.mean(values)), 4) for name, values in by_group.items()},
        "interval": [round(value, 4) for value in setting.interval(draws)],
        "labels": round(float(np.mean(taught)), 4) if taught else None,
        "by_seed": [round(value, 4) for value in by_group["all"]],
    }
