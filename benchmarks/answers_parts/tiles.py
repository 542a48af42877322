"""What tiles find that the whole picture does not: dense scenes of 2,000 pixels, by size at the model's input.

Objects are found where an answer has their label at IoU 0.5, each box for one object. Misses under 16 px (the longer
side at the model's input) with and without tiles, precision of all boxes, seconds a picture; the mean difference in
precision between tiles and none with its interval (95 %, resampled pictures). Lines of text too, found by their
place alone (IoU 0.5): on drawn pages of 16 signs, and with --data on real receipts.
"""

from __future__ import annotations

import time

import numpy as np

import florence2
from florence2 import geometry, sources
from florence2.scenes import TRAINING_SEEDS, draw

SMALL = 16  # pixels at the model's input
GRIDS = (None, (2, 2), (4, 4), "auto")
REGIME = "objects=20-40,min_side=0.03,max_side=0.3,size=2000,signs=0"
FIRST = TRAINING_SEEDS + 910_000


def run(args) -> dict[str, object]:
    """The table, and its figures."""
    model, count = florence2.load(args.model), max(8, args.pictures // 10)
    scenes = list(sources.open(f"scenes:count={count},seed={FIRST},{REGIME}"))
    print(f"tiles: {count} scenes of 2,000 px, {sum(len(s.regions) for s in scenes)} objects")
    print("| tiles | found, under 16 px | found, others | precision | boxes | s a picture | misses removed |")
    print("|---|---|---|---|---|---|---|")
    pixels = {scene.id: sources.pixels(scene.image) for scene in scenes}
    figures, before = {}, None
    for grid in GRIDS:
        start = time.perf_counter()
        answers = [model.predict(pixels[scene.id], "<OD>", tiles=grid) for scene in scenes]
        seconds = (time.perf_counter() - start) / count
        rows = np.array([counted(scene, answer, model.config.image_size_wh) for scene, answer in zip(scenes, answers)])
        small, found_small, large, found_large, boxes, right = rows.sum(axis=0)
        before = rows if before is None else before
        misses = (before[:, 0] - before[:, 1]).sum()
        removed = 1 - (small - found_small) / misses if misses else 0.0
        low, high = interval(rows, before)
        name = "none" if grid is None else grid if isinstance(grid, str) else "x".join(map(str, grid))
        print(
            f"| {name} | {found_small / small:.3f} | {found_large / max(large, 1):.3f} | {right / max(boxes, 1):.3f} "
            f"({low:+.3f} to {high:+.3f}) | {boxes} | {seconds:.2f} | {removed:.2f} |",
            flush=True,
        )
        figures[name] = {
            "recall_small": round(float(found_small / small), 4),
            "recall_others": round(float(found_large / max(large, 1)), 4),
            "precision": round(float(right / max(boxes, 1)), 4),
            "precision_change": [round(low, 4), round(high, 4)],
            "misses_removed": round(float(removed), 4),
            "seconds": round(seconds, 3),
        }
    figures |= lines("drawn pages", pages(max(4, args.pictures // 50)), model)
    if args.data and (args.data / "sroie/dev").is_dir():
        receipts = sources.open(str(args.data / "sroie/dev"), limit=max(4, args.pictures // 50))
        figures |= lines("receipts", [(sources.pixels(s.image), boxes_of(s)) for s in receipts], model)
    return figures


def boxes_of(sample) -> np.ndarray:
    """The boxes of a sample's lines."""
    return geometry.as_boxes([geometry.region_box(region) for region in sample.regions if region.kind == "text"])


def pages(count: int):
    """Pages of 16 signs: as many scenes of 256 pixels with one sign each, side by side."""
    for number in range(count):
        page, found = np.zeros((1024, 1024, 3), np.uint8), []
        for cell in range(16):
            picture, sample = draw(FIRST + 5000 + 16 * number + cell, objects=(0, 1), signs=1, size=256)
            x, y = cell % 4 * 256, cell // 4 * 256
            page[y : y + 256, x : x + 256] = picture
            found.append(boxes_of(sample) + (x, y, x, y))
        yield page, np.concatenate(found)


def lines(title: str, pictures, model) -> dict[str, object]:
    """Lines of text found by their place; how large they are at the model's input."""
    pictures = list(pictures)
    count = sum(len(true) for _, true in pictures)
    wide, high = model.config.image_size_wh
    sides = [(true[:, 2:] - true[:, :2]) * (wide / p.shape[1], high / p.shape[0]) for p, true in pictures]
    small = (np.concatenate(sides).max(axis=1) < SMALL).mean()
    print(f"\ntiles: {len(pictures)} {title}, {count} lines, {small:.0%} of them under {SMALL} px")
    print("| tiles | lines found | precision | s a picture | misses removed |\n|---|---|---|---|---|")
    figures: dict[str, object] = {}
    first = None
    for grid in (None, (2, 2), (4, 4), "auto"):
        start, rows = time.perf_counter(), []
        for pixels, true in pictures:
            answer = model.predict(pixels, "<OCR_WITH_REGION>", tiles=grid)
            taken = np.zeros(len(true), bool)
            for place in np.argsort(-answer.scores, kind="stable"):
                overlaps = np.where(taken, 0, geometry.iou(answer.xyxy[place], true)[0])
                taken[overlaps.argmax()] |= bool(overlaps.max() >= 0.5)
            rows.append((taken.sum(), len(answer.boxed)))
        seconds = (time.perf_counter() - start) / len(pictures)
        found, boxes = np.sum(rows, axis=0).tolist()
        first = count - found if first is None else first
        name = "none" if grid is None else grid if isinstance(grid, str) else "x".join(map(str, grid))
        recall, precision, removed = found / count, found / max(1, boxes), 1 - (count - found) / max(1, first)
        print(f"| {name} | {recall:.3f} | {precision:.3f} | {seconds:.2f} | {removed:.2f} |", flush=True)
        values = {"recall": recall, "precision": precision, "misses_removed": removed, "seconds": seconds}
        figures[f"{title}, {name}"] = {key: round(value, 4) for key, value in values.items()}
    return figures


def counted(scene, answer, size_wh) -> tuple[int, ...]:
    """(small objects, found, other objects, found, boxes, right boxes) of one picture."""
    width, height = scene.image.size_wh
    scale = np.array([size_wh[0] / width, size_wh[1] / height])
    true = [region for region in scene.regions if region.kind == "object"]
    boxes = geometry.as_boxes([region.box for region in true])
    small = ((boxes[:, 2:] - boxes[:, :2]) * scale).max(axis=1) < SMALL
    taken = np.zeros(len(true), bool)
    right = 0
    for place in np.argsort(-answer.scores, kind="stable"):
        overlaps = geometry.iou(answer.xyxy[place], boxes)[0]
        overlaps[[r.label != answer.labels[place] for r in true]] = 0
        overlaps[taken] = 0
        if len(overlaps) and overlaps.max() >= 0.5:
            taken[overlaps.argmax()] = True
            right += 1
    return int(small.sum()), int(taken[small].sum()), int((~small).sum()), int(taken[~small].sum()), len(answer), right


def interval(rows: np.ndarray, before: np.ndarray, resamples: int = 1000) -> tuple[float, float]:
    """The middle 95 % of the change in precision over resampled pictures."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(rows), (resamples, len(rows)))
    now, then = (r[picks].sum(axis=1) for r in (rows, before))
    change = now[:, 5] / np.maximum(now[:, 4], 1) - then[:, 5] / np.maximum(then[:, 4], 1)
    low, high = np.quantile(change, [0.025, 0.975])
    return float(low), float(high)
