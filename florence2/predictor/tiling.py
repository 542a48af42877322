"""A large picture asked as overlapping tiles and as a whole: small things are seen at a size that the model knows.

Each part is a picture of its own in one batch of predictions; what they answer is made one by `tile_merging`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Union

import numpy as np

from florence2.codec import places
from florence2.codec.answer_parser import PhraseLocator
from florence2.codec.tasks import Task, task_of
from florence2.model.image import preprocess
from florence2.model.model_config import ModelConfig
from florence2.pixels import BadImage
from florence2.predictor import batch, images, post_filters
from florence2.predictor.answer import Answer, answer_of, render
from florence2.predictor.batch import EncodedImage, LoadedImage, ModelParts, Request
from florence2.predictor.images import failure_of
from florence2.predictor.tile_merging import Piece, merged, piece
from florence2.records import Ask, Box, Failure, Grounding, Parsed, Region

Tiles = Union[str, tuple[int, int], None]
OVERLAP = 0.2  # of a tile's side, shared with its neighbour
MOST = 6  # tiles a side that "auto" makes
AT_ONCE = 8  # parts in a batch


def answer(predictor: ModelParts, requests: Sequence[Request]) -> list[list[Answer | Failure]]:
    """For each request the answer to each of its asks, of those that ask for tiles merged from their parts."""
    plain = [n for n, request in enumerate(requests) if request.decoding.tiles is None]
    found = dict(zip(plain, batch.answer(predictor, [requests[n] for n in plain]))) if plain else {}
    for number, request in enumerate(requests):
        if number not in found:
            found[number] = _tiled(predictor, request)
    return [found[number] for number in range(len(requests))]


def parts_of(tiles: Tiles, size_wh: tuple[int, int], config: ModelConfig) -> list[Box]:
    """The whole picture, then its tiles row by row, in pixels; ValueError for tiles smaller than a cell of the map.

    "auto": tiles of the model's own picture size, MOST a side at the most, and of twice that size, so that what is cut
    at one size is whole at another; none for a picture that is no larger than the model's.
    """
    (width, height), (wide, high) = size_wh, config.image_size_wh
    grids = [tiles] if isinstance(tiles, tuple) else _auto(size_wh, config.image_size_wh)
    cell = wide / config.map_size_wh[0], high / config.map_size_wh[1]
    parts = [(0.0, 0.0, float(width), float(height))]
    for columns, rows in grids:
        if columns * rows == 1:
            continue
        across, down = _steps(width, columns), _steps(height, rows)
        least = min(b - a for a, b in across), min(b - a for a, b in down)
        if tiles != "auto" and (least[0] < cell[0] or least[1] < cell[1]):
            raise ValueError(
                f"tiles: ({columns}, {rows}) of {width} x {height} pixels are of {least[0]:.0f} x {least[1]:.0f} each; "
                f"expected at least one cell of the model's map, {cell[0]:.0f} x {cell[1]:.0f} pixels"
            )
        parts += [(x1, y1, x2, y2) for y1, y2 in down for x1, x2 in across]
    return parts


def _auto(size_wh: tuple[int, int], own_wh: tuple[int, int]) -> list[tuple[int, int]]:
    """(columns, rows) of each size of tiles."""
    columns, rows = (min(MOST, max(1, math.ceil(side / own))) for side, own in zip(size_wh, own_wh))
    grids = [(columns, rows)]
    if max(grids[-1]) > 2:
        grids.append((math.ceil(columns / 2), math.ceil(rows / 2)))
    return grids


def _steps(side: int, count: int) -> list[tuple[float, float]]:
    """`count` intervals over a side, each sharing OVERLAP of itself with the next, at whole pixels."""
    length = side / (count - (count - 1) * OVERLAP)
    starts = [round(n * length * (1 - OVERLAP)) for n in range(count)]
    return [(float(start), float(min(side, round(start + length)))) for start in starts[:-1]] + [
        (float(starts[-1]), float(side))
    ]


def _tiled(predictor: ModelParts, request: Request) -> list[Answer | Failure]:
    array = _pixels(request)
    if isinstance(array, Failure):
        return [array] * len(request.asks)
    size_wh = (array.shape[1], array.shape[0])
    source = request.image.image if isinstance(request.image, LoadedImage) else request.image
    try:
        boxes = parts_of(request.decoding.tiles, size_wh, predictor.model.config)
    except ValueError as error:
        return [failure_of(error, source)] * len(request.asks)
    alone = dataclasses.replace(request.decoding, tiles=None, filters=(), each_class=False)
    parts = (_part(array, box, predictor.model.config) for box in boxes)
    answers: list[list[Answer | Failure]] = []
    for chunk in _chunks(parts):
        answers += batch.answer(predictor, [Request(part, request.asks, alone) for part in chunk])
    out: list[Answer | Failure] = []
    for n, ask in enumerate(request.asks):
        found = [row[n] for row in answers]
        failed = next((one for one in found if isinstance(one, Failure)), None)
        if failed:
            out.append(failed)
            continue
        good = [one for one in found if isinstance(one, Answer)]
        task = task_of(ask.task, predictor.tasks)
        whole = _merge(good, boxes, ask, task, size_wh, request.decoding.filters)
        out.append(dataclasses.replace(whole, image=source))  # type: ignore[arg-type]
    return out


def _pixels(request: Request) -> np.ndarray | Failure:
    """The request's picture, which tiles are cut from."""
    image = request.image
    if isinstance(image, Failure):
        return image
    if isinstance(image, LoadedImage) and image.array is not None:
        return image.array
    if isinstance(image, (LoadedImage, EncodedImage)):
        return failure_of(ValueError("tiles: needs the picture itself, not what encode_image made of it"), image.image)
    try:
        return images.load(image)
    except BadImage as error:
        return failure_of(error, image)


def _part(array: np.ndarray, box: Box, config: ModelConfig) -> LoadedImage:
    x1, y1, x2, y2 = map(int, box)
    pixels = preprocess(np.ascontiguousarray(array[y1:y2, x1:x2]), config)
    return LoadedImage(pixels, (x2 - x1, y2 - y1), is_part=(x2 - x1, y2 - y1) != array.shape[1::-1])


def _chunks(parts: Iterator[LoadedImage]) -> Iterator[list[LoadedImage]]:
    yield from images.batches(parts, AT_ONCE)


def _merge(
    answers: Sequence[Answer],
    boxes: Sequence[Box],
    ask: Ask,
    task: Task,
    size_wh: tuple[int, int],
    filters: Sequence[str],
) -> Answer:
    pieces: list[Piece] = []
    for part, found in zip(boxes, answers):
        phrases = {i: grounding.phrase for grounding in found.groundings for i in grounding.region_ids}
        for region in found.boxed:
            name = region.label or region.description or phrases.get(region.id, "")
            pieces.append(piece(region, name, part, size_wh))
    found_regions = _ordered(merged(pieces, size_wh), task)
    regions = tuple(dataclasses.replace(region, id=f"r{n}") for n, (_, region) in enumerate(found_regions))
    parsed = Parsed(regions=regions, truncated=any(found.truncated for found in answers))
    if task.output_kind == "phrases" or (task.output_kind == "polygons" and ask.text):
        groundings = _groundings([name for name, _ in found_regions], regions, ask)
        parsed = dataclasses.replace(parsed, groundings=groundings)
    parsed, decisions = post_filters.apply(parsed, filters, task.output_kind, size_wh)
    whole = answers[0]
    out = answer_of(
        parsed, task=task.token, prompt=whole.prompt, size_wh=size_wh, decisions=decisions, ask=ask, row=task
    )
    return dataclasses.replace(out, text=_written(out))


def _ordered(found: Sequence[tuple[str, Region]], task: Task) -> list[tuple[str, Region]]:
    """As targets have it: labels in code-point order, large boxes first; lines of text as they are read."""
    names = {id(region): name for name, region in found}
    regions = [region for _, region in found]
    if task.output_kind == "quads":
        return [(names[id(region)], region) for region in places.reading_order(regions)]
    ordered = sorted(places.by_area(regions), key=lambda region: names[id(region)])
    return [(names[id(region)], region) for region in ordered]


def _groundings(names: Sequence[str], regions: Sequence[Region], ask: Ask) -> tuple[Grounding, ...]:
    """One phrase for each name, with the regions that were found for it, the best one's score its own."""
    locate = PhraseLocator(ask.text)
    out: list[Grounding] = []
    for phrase in dict.fromkeys(names):
        own = [region for name, region in zip(names, regions) if name == phrase]
        scores = [region.score for region in own if region.score is not None]
        expression = phrase or ask.text
        out.append(
            Grounding(
                id=f"g{len(out)}",
                text_id=ask.text_id if phrase else "",
                phrase=expression,
                spans=locate(phrase) if phrase else (),
                region_ids=tuple(region.id for region in own),
                score=max(scores) if scores else None,
            )
        )
    return tuple(out)


def _written(found: Answer) -> str:
    """The merged answer as a target, at the whole picture's bins; what letters cannot spell is left out."""
    try:
        return f"</s><s>{render(found)}</s>"
    except ValueError:
        return ""
