"""One small labelled set in each format, drawn where a test asks for it: pictures of 160 x 120, boxes in pixels."""

import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

SIZE = (160, 120)


def picture(path, size=SIZE, orientation=1):
    """A picture whose noise depends on its name; `orientation` is EXIF's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(map(ord, path.name))).integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(path, exif=exif)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def coco(root, name, boxes, told=SIZE):
    rows = [
        {"id": n, "image_id": 1, "category_id": 1 + (label == "dog"), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, (label, (x1, y1, x2, y2)) in enumerate(boxes, 1)
    ]
    image = {"id": 1, "file_name": name, **dict(zip(("width", "height"), told or ()))}
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    write(root / "instances.json", json.dumps({"images": [image], "annotations": rows, "categories": names}))
    return root / "images"


def voc_object(label, box):
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"


def voc(root, name, boxes, told=SIZE):
    size = f"<size><width>{told[0]}</width><height>{told[1]}</height></size>" if told else ""
    things = "".join(voc_object(*thing) for thing in boxes)
    said = f"<annotation><filename>{name}</filename>{size}{things}</annotation>"
    write(root / "Annotations" / f"{Path(name.replace(chr(92), '/')).stem}.xml", said)
    return root / "JPEGImages"


def yolo(root, name, boxes, told=None):
    rows = ""
    for label, (x1, y1, x2, y2) in boxes:
        cx, cy, w, h = (x1 + x2) / 320, (y1 + y2) / 240, (x2 - x1) / 160, (y2 - y1) / 120
        rows += f"{int(label == 'dog')} {cx} {cy} {w} {h}\n"
    write(root / "labels" / f"{Path(name).stem}.txt", rows)
    write(root / "data.yaml", "train: images\nval: images\nnames: [cat, dog]\n")
    return root / "images"


def jsonl(root, name, boxes, told=SIZE):
    regions = [
        {"id": f"r{n}", "label": label, "label_space": "pets", "box": box} for n, (label, box) in enumerate(boxes)
    ]
    image = {"id": name, "uri": f"images/{name}", **dict(zip(("width", "height"), told or ()))}
    coverage = {"pets": [{"state": "exhaustive", "labels": ["cat", "dog"]}]}
    line = {"id": "1", "image": image, "regions": regions, "coverage": coverage}
    write(root / "samples.jsonl", json.dumps(line) + "\n")
    return root / "images"


def labelstudio(root, name, boxes, told=SIZE):
    width, height = told or SIZE
    results = []
    for n, (label, (x1, y1, x2, y2)) in enumerate(boxes):
        place = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
        value = {**{key: 100 * v for key, v in place.items()}, "rectanglelabels": [label]}
        sides = {"original_width": width, "original_height": height}
        results.append({"id": f"r{n}", "type": "rectanglelabels", "value": value, **sides})
    task = {"id": 1, "data": {"image": name}, "annotations": [{"completed_by": 1, "result": results}]}
    write(root / "export.json", json.dumps([task]))
    return root / "images"


def cvat(root, name, boxes, told=SIZE):
    size = f'width="{told[0]}" height="{told[1]}"' if told else ""
    places = (dict(zip(("xtl", "ytl", "xbr", "ybr"), box)) for _, box in boxes)
    shapes = "".join(
        f"<box label={quoteattr(label)} " + " ".join(f'{key}="{v}"' for key, v in place.items()) + "/>"
        for (label, _), place in zip(boxes, places)
    )
    image = f'<image id="1" name={quoteattr(name)} {size}>{shapes}</image>'
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>")
    return root / "images"


def openimages(root, name, boxes, told=None):
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax"
    rows = [f"{Path(name).stem},/m/{label},{a / 160},{c / 160},{b / 120},{d / 120}" for label, (a, b, c, d) in boxes]
    write(root / "validation-annotations-bbox.csv", "\n".join([head, *rows]) + "\n")
    write(root / "class-descriptions-boxable.csv", "/m/cat,cat\n/m/dog,dog\n")
    return root / "validation"


def icdar(root, name, boxes, told=None):
    rows = [f"{a},{b},{c},{b},{c},{d},{a},{d},{label}" for label, (a, b, c, d) in boxes]
    write(root / "gt" / f"gt_{Path(name).stem}.txt", "\n".join(rows) + "\n")
    return root / "img"


def sroie(root, name, boxes, told=None):
    rows = [f"{a},{b},{c},{b},{c},{d},{a},{d},{label}" for label, (a, b, c, d) in boxes]
    write(root / "box" / f"{Path(name).stem}.csv", "\n".join(rows) + "\n")
    return root / "img"


MAKERS = {
    make.__name__: make for make in (coco, voc, yolo, jsonl, labelstudio, cvat, openimages, icdar, sroie)
}  # each writes the labels of one picture and returns the folder where the picture belongs
TELL_SIZE = ("coco", "voc", "jsonl", "labelstudio", "cvat")
