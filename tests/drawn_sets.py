"""Small drawn sets in the layouts in which six sets are published: what is in them is known to the last box.

Each maker fills a folder and returns the scenes in it, in the order of their names. Boxes are rounded outwards to whole
pixels where the layout has whole pixels.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from florence2 import geometry, pixels, scenes
from florence2.records import Sample

SIZE = (128, 96)


def _saved(drawn: Iterable[tuple[np.ndarray, Sample]], folder: Path, name: str) -> list[tuple[str, Sample]]:
    """The pictures as JPEG files, `name` a format of their number; the names with their truth."""
    folder.mkdir(parents=True)
    out = []
    for number, (picture, sample) in enumerate(drawn):
        (folder / name.format(number)).write_bytes(pixels.encode(picture, "JPEG"))
        out.append((name.format(number), sample))
    return out


def _scenes(count: int, first: int) -> Iterable[tuple[np.ndarray, Sample]]:
    return (scenes.draw(first + n, objects=(2, 4), size=SIZE, signs=0.0) for n in range(count))


def _pages(count: int) -> Iterable[tuple[np.ndarray, Sample]]:
    return (scenes.draw_page(n, size=(192, 256)) for n in range(count))


def whole(box) -> list[int]:
    """A box in whole pixels, none of them lost."""
    x1, y1, x2, y2 = box
    return [int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2))]


def _xml(file: str, sample: Sample) -> str:
    objects = "".join(
        f"\t<object>\n\t\t<name>{r.label}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        "\t\t<difficult>0</difficult>\n\t\t<bndbox>"
        + "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), whole(r.box)))
        + "</bndbox>\n\t</object>\n"
        for r in sample.regions
    )
    size = f"<width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth>"
    return (
        f"<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{file}</filename>\n\t<path>/home/pi/{file}</path>\n"
        f"\t<source><database>Unknown</database></source>\n\t<size>{size}</size>\n{objects}</annotation>\n"
    )


def bccd(root: Path) -> list[Sample]:
    """Pascal VOC with lists of its parts (BCCD)."""
    drawn = _saved(_scenes(6, 0), root / "JPEGImages", "BloodImage_{:05}.jpg")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for file, sample in drawn:
        (root / "Annotations" / file).with_suffix(".xml").write_text(_xml(file, sample))
    names = [Path(file).stem for file, _ in drawn]
    for part, of in {"train": names[::2], "val": names[1::2], "trainval": names}.items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(of) + "\n")
    return [sample for _, sample in drawn]


def cards(root: Path) -> list[Sample]:
    """Pascal VOC, each file beside its picture (playing cards)."""
    drawn = _saved(_scenes(12, 100), root, "IMG_{:04}.JPG")
    for file, sample in drawn:
        (root / file).with_suffix(".xml").write_text(_xml(file, sample))
    return [sample for _, sample in drawn]


def _coco(drawn: list[tuple[str, Sample]], first_id: int) -> dict:
    """COCO's file with outlines; numbers of pictures and objects are not 1, 2, 3."""
    labels = sorted({r.label for _, sample in drawn for r in sample.regions})
    images, rows = [], []
    for number, (file, sample) in enumerate(drawn, first_id):
        images.append({"height": SIZE[1], "width": SIZE[0], "id": number, "file_name": file})
        for region in sample.regions:
            x1, y1, x2, y2 = region.box
            outlines = [list(polygon) for polygon in region.polygons]
            area = sum(map(geometry.polygon_area, region.polygons))
            place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": outlines, "area": area, "iscrowd": 0}
            row = {"id": 1000 + 7 * len(rows), "image_id": number, "category_id": 3 + 2 * labels.index(region.label)}
            rows.append({**row, **place})
    names = [{"supercategory": "thing", "id": 3 + 2 * n, "name": name} for n, name in enumerate(labels)]
    return {"images": images, "categories": names, "annotations": rows}


def nuts(root: Path) -> list[Sample]:
    """One COCO file with outlines, pictures in images/."""
    drawn = _saved(_scenes(12, 200), root / "images", "{}.jpg")
    (root / "trainval.json").write_text(json.dumps(_coco(drawn, 0)))
    return [sample for _, sample in drawn]


def coco_open(root: Path) -> list[Sample]:
    """COCO's own files: instances with a crowd in each picture, captions, and phrases of the captions with boxes."""
    drawn = _saved(_scenes(12, 300), root / "val2017", "{:012}.jpg")
    data, captions, pairs = _coco(drawn, 0), [], []
    for number, (file, sample) in enumerate(drawn):
        crowd = np.zeros(SIZE[::-1], np.uint8)
        crowd[60:90, 5 : 20 + number] = 1
        counts = np.diff(np.flatnonzero(np.diff(crowd.T.ravel(), prepend=0, append=1)), prepend=0).tolist()
        segmentation = {"counts": counts, "size": [SIZE[1], SIZE[0]]}
        box = {"bbox": [5, 60, 15 + number, 30], "area": int(crowd.sum()), "iscrowd": 1, "category_id": 3}
        data["annotations"].append(
            {"id": 908400000000 + number, "image_id": number, "segmentation": segmentation, **box}
        )
        own = [row for row in data["annotations"] if row["image_id"] == number]
        for text in sample.texts[:2]:
            captions.append({"image_id": number, "id": 50 + len(captions), "caption": text.text})
        for grounding in [g for g in sample.groundings if g.text_id == sample.texts[0].id and len(g.spans) == 1]:
            region = next(n for n, r in enumerate(sample.regions) if r.id in grounding.region_ids)
            pair = {"image_id": number, "file_name": file, "caption_id": 50 + 2 * number, "phrase": grounding.phrase}
            place = {"span": list(grounding.spans[0]), "bbox_xyxy": list(sample.regions[region].box)}
            pairs.append({**pair, **place, "segment_id": own[region]["id"]})
    images = data["images"]
    (root / "instances_val2017.json").write_text(json.dumps({"info": {}, "licenses": [], **data}))
    (root / "captions_val2017.json").write_text(json.dumps({"info": {}, "images": images, "annotations": captions}))
    (root / "grounding_derived.json").write_text(json.dumps({"info": "drawn", "pairs": pairs}))
    return [sample for _, sample in drawn]


def sroie(root: Path) -> list[Sample]:
    """Receipts: quads in whole pixels with their lines, four fields a receipt."""
    drawn = _saved(_pages(12), root / "img", "{:03}.jpg")
    for folder in ("box", "key"):
        (root / folder).mkdir()
    for file, sample in drawn:
        rows = [",".join([*(str(round(v)) for v in r.quad), r.label]) for r in sample.regions]
        (root / "box" / file).with_suffix(".csv").write_text("\n".join(rows) + "\n")
        fields = {
            "company": sample.regions[0].label,
            "date": "25/12/2018",
            "address": "NO.53 55,57 & 59",
            "total": "9.00",
        }
        (root / "key" / file).with_suffix(".json").write_text(json.dumps(fields, indent=4))
    return [sample for _, sample in drawn]


def icdar2015(root: Path) -> list[Sample]:
    """Street text: a byte order mark first, lines that end as on Windows, the first word of each file unreadable."""
    drawn = _saved(_pages(12), root / "img", "img_{}.jpg")
    (root / "gt").mkdir()
    for file, sample in drawn:
        labels = ["###", *(r.label for r in sample.regions[1:])]
        rows = [",".join([*(str(round(v)) for v in r.quad), label]) for r, label in zip(sample.regions, labels)]
        data = "\ufeff" + "\r\n".join(rows) + "\r\n"
        (root / "gt" / f"gt_{Path(file).stem}.txt").write_bytes(data.encode())
    return [sample for _, sample in drawn]


# folder, as in the optional test data -> its format and the maker of the drawn set in its layout
SETS = {
    "bccd/BCCD": ("voc", bccd),
    "cards/train": ("voc", cards),
    "nuts": ("coco", nuts),
    "coco_open/dev": ("coco", coco_open),
    "sroie/dev": ("sroie", sroie),
    "icdar2015/dev": ("icdar", icdar2015),
}
