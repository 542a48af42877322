"""The tables as a picture: the score of every arm with its interval, a panel a piece or task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROW = 0.28  # inches
OF_F1 = ": F1"


def plot(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], out: Path) -> None:
    """Write an SVG of the pieces that are there; `figures` as `tables.show` returns them, by piece."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "claims", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    shown = panels_of(figures)
    if not shown:
        raise ValueError("no arm is there yet; run a piece first")
    rows = [len(arms) for arms in shown.values()]
    figure, panels = pyplot.subplots(
        len(shown), 1, figsize=(10, ROW * sum(rows) + 0.8 * len(rows)), height_ratios=rows, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    ends = [
        end
        for piece, arms in shown.items()
        if piece.endswith(OF_F1)
        for row in arms.values()
        for end in row["interval"]
    ]
    for (panel,), (piece, arms) in zip(panels, shown.items()):
        places = range(len(arms), 0, -1)
        for place, row in zip(places, arms.values()):
            low, high = row["interval"]
            panel.plot([low, high], [place, place], color="0.6", linewidth=2)
            panel.plot(row["by_seed"], [place] * len(row["by_seed"]), "|", color="0.2")
            panel.plot([row["all"]], [place], "o", color="tab:blue", markersize=5)
        panel.set_yticks(list(places), [f"{name} ({len(row['by_seed'])})" for name, row in arms.items()])
        panel.set_title(f"{piece} (95 %, a dash a seed)", loc="left", fontsize=9)
        panel.set_ylim(0.3, len(arms) + 0.7)
        panel.grid(axis="x", alpha=0.3)
        if piece.endswith(OF_F1):  # of one scale
            panel.set_xlim(min(ends) - 0.01, max(ends) + 0.01)
    figure.savefig(out, metadata={"Date": None})


def panels_of(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    """A panel a piece: F1 of its arms; of pre-training one a task: its main metric."""
    out: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for piece, arms in figures.items():
        if arms and all("interval" in row for row in arms.values()):
            out[f"{piece}{OF_F1}"] = arms
        elif arms:
            for task in next(iter(arms.values())):
                out[f"{piece}: {task}"] = {arm: row[task] for arm, row in arms.items()}
    return out
