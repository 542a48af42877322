"""Near duplicates: precision and recall of what is called so.   python benchmarks/near_duplicates.py [--data DIR ...]

Of each picture four copies are made (half the size; JPEG of quality 40; 5 % cut away; cut, 60 % of the size and JPEG of
quality 50), and two frames: the picture with another pasted in at two places, 12 to 25 % of the short side. A copy
belongs to its picture; two frames, and pictures of one folder, do not belong together. Pages and scenes are drawn and
photographs are scikit-image's; with --data the pictures of those folders, a few dozen of each, are asked about too
(pairs of them that are called the same are printed: look at them, they may be). Ends with one JSON line.
"""

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from florence2 import pixels
from florence2.engine.ingest import near_duplicates
from florence2.engine.ingest.duplicates import HashedPicture, likely_pairs
from florence2.engine.ingest.inspection import perceptual_hash
from florence2.records import ImageRef
from florence2.scenes import draw, draw_page

PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "brick.png", "grass.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=(), help="folders of pictures, each a set of look-alikes")
    parser.add_argument("--each", type=int, default=70, help="pictures of each set")
    args = parser.parse_args()
    sets = {"pages": pages(args.each), "scenes": scenes(args.each), "photos": photos()}
    for folder in args.data:
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".png", ".jpeg"))
        chosen = random.Random(0).sample(files, min(args.each, len(files)))
        sets[folder] = {str(path): shrink(pixels.load(path), 1200) for path in sorted(chosen)}
    rows, total = {}, Counter()
    for name, pictures in sets.items():
        counts, wrong = score(pictures)
        for pair in wrong[:10]:
            print("called the same:", *pair, file=sys.stderr)
        rows[name] = figures(counts)
        total.update(counts)
    rows["all"] = figures(total)
    print(f"{'set':40} {'pictures':>8} {'candidates':>10} {'called':>7} {'precision':>9} {'recall':>7}")
    for name, row in rows.items():
        print(
            f"{name[-40:]:40} {row['pictures']:8} {row['candidates']:10} {row['called']:7} "
            f"{row['precision']:9.3f} {row['recall']:7.3f}"
        )
    print(json.dumps(rows))


def figures(counts):
    """Counts with precision and recall."""
    called, right, true = counts["called"], counts["right"], counts["true"]
    return {**counts, "precision": right / called if called else 1.0, "recall": right / true if true else 1.0}


def score(pictures):
    """(counts, wrong pairs) of a set of pictures that are all different, their copies and their frames."""
    rng = random.Random(0)
    everything = {}
    names = sorted(pictures)
    for name in names:
        everything |= {f"{name}#{kind}": array for kind, array in copies(rng, pictures[name])}
        other = pictures[rng.choice(names)]
        everything |= {f"{name}#frame{n}": frame(rng, pictures[name], other) for n in range(2)}
        everything[f"{name}#0"] = pictures[name]
    listed = [
        HashedPicture(k, k, k, ImageRef(k), perceptual_hash(a), signature=near_duplicates.signature(a))
        for k, a in everything.items()
    ]
    grey = {k: near_duplicates.grey(a) for k, a in everything.items()}
    called, candidates = set(), 0
    for i, j, _ in likely_pairs(listed, 4):
        one, two = listed[i].id, listed[j].id
        if mixed(one, two):  # a frame and the picture it was made of: neither same nor another
            continue
        candidates += 1
        if near_duplicates.same_picture(grey[one], grey[two]):
            called.add(frozenset((one, two)))
    true = {frozenset((f"{n}#0", f"{n}#{kind}")) for n in names for kind in ("half", "jpeg", "cut", "all")}
    right = {
        pair for pair in called if len({k.split("#")[0] for k in pair}) == 1 and not any("frame" in k for k in pair)
    }
    counts = {
        "pictures": len(names), "candidates": candidates, "called": len(called - right) + len(called & true),
        "right": len(called & true), "true": len(true),
    }  # fmt: skip
    return Counter(counts), [sorted(pair) for pair in called - right]


def mixed(one, two):
    """Whether the pair is of a picture and a frame made of it."""
    return one.split("#")[0] == two.split("#")[0] and ("frame" in one) != ("frame" in two)


def copies(rng, array):
    """Four copies of a picture, by kind."""
    height, width = array.shape[:2]
    y, x = (round(side * rng.uniform(0, 0.05)) for side in (height, width))
    cut = np.ascontiguousarray(array[y : y + round(height * 0.95), x : x + round(width * 0.95)])
    yield "half", resized(array, 0.5)
    yield "jpeg", jpeg(array, 40)
    yield "cut", cut
    yield "all", jpeg(resized(cut, 0.6), 50)


def frame(rng, array, other):
    """A picture with a small copy of another pasted in somewhere."""
    height, width = array.shape[:2]
    side = round(min(height, width) * rng.uniform(0.12, 0.25))
    y, x = rng.randrange(height - side), rng.randrange(width - side)
    out = array.copy()
    out[y : y + side, x : x + side] = pixels.resize(other, (side, side))
    return jpeg(out, 80)


def resized(array, factor):
    """A picture at another size."""
    return pixels.resize(array, tuple(max(8, round(side * factor)) for side in array.shape[1::-1]))


def shrink(array, longest):
    """A picture of at most so many pixels a side."""
    return resized(array, longest / max(array.shape[:2])) if max(array.shape[:2]) > longest else array


def jpeg(array, quality):
    """A picture after JPEG."""
    return pixels.load(pixels.encode(array, "JPEG", quality=quality))


def pages(count):
    """Drawn pages of text, which look alike."""
    return {f"page{seed}": draw_page(seed)[0] for seed in range(count)}


def scenes(count):
    """Drawn scenes."""
    return {f"scene{seed}": draw(seed, objects=(2, 5), size=320)[0] for seed in range(count)}


def photos():
    """Photographs that scikit-image ships."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return {name: shrink(pixels.load(folder / name), 800) for name in PHOTOS}


if __name__ == "__main__":
    main()
