"""Results as tables: F1 of each arm over its seeds, with intervals, and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from claims_parts import setting


def show(piece: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a piece's table; its figures by arm."""
    print(f"\n## {piece}\n")
    if any("metrics" in line for line in lines):
        return metrics_of(lines)
    print("| arm | seeds | F1 (scenes without, with unseen kinds) | interval | labels' F1 | by seed |")
    print("|---|---|---|---|---|---|")
    figures = {}
    for arm, found in by_arm([line for line in lines if line["counts"]]).items():
        figures[arm] = row = figures_of(found)
        taught = f"{row['labels']:.3f}" if row["labels"] is not None else "-"
        seeds = ", ".join(f"{value:.3f}" for value in row["by_seed"])
        print(
            f"| {arm} | {len(found)} | {row['all']:.3f} ({row['seen']:.3f}, {row['unseen']:.3f}) "
            f"| {row['interval'][0]:.3f}-{row['interval'][1]:.3f} | {taught} | {seeds} |"
        )
    return figures


def metrics_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the main metrics of several tasks by arm: the mean over seeds, and each seed's."""
    tasks = list(lines[0]["metrics"])
    print(f"| arm | {' | '.join(tasks)} |\n|---{'|---' * len(tasks)}|")
    figures = {}
    for arm, found in by_arm(lines).items():
        figures[arm] = {task: [line["metrics"][task] for line in found] for task in tasks}
        cells = (f"{np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})" for values in figures[arm].values())
        print(f"| {arm} | {' | '.join(cells)} |")
    return figures


def by_arm(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    out = defaultdict(list)
    for line in lines:
        out[line["arm"]].append(line)
    return dict(out)


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
