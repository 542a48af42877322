"""`predict_many` over mixed JPEGs: pictures a second beside the model alone on the same pictures, and memory over time.

The shipped nano, so that decoding pictures is no small part; drawn JPEGs of many sizes, some damaged.
"""

import io
import resource
import time

import numpy as np
import torch

import florence2
from benchmarks.pairs import Table, Times, arguments
from florence2.records import Failure

SIDES = [(480, 640), (1080, 1920), (768, 768), (300, 200), (1200, 800)]


def jpegs(count: int) -> list[bytes]:
    from PIL import Image

    found = []
    for number in range(count):
        rows, columns = SIDES[number % len(SIDES)]
        small = np.random.default_rng(number).integers(0, 256, (rows // 40, columns // 40, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(small).resize((columns, rows), 3).save(data, "JPEG")
        found.append(b"no picture" if number % 97 == 96 else data.getvalue())
    return found


def main() -> None:
    out = arguments(__doc__)
    out.add_argument("--images", type=int, metavar="N", help="JPEGs (default: 1,000; quick: 60)")
    args = out.parse_args()
    torch.set_num_threads(args.threads)
    count = args.images or (60 if args.quick else 1000)
    model, files, batch = florence2.load("nano"), jpegs(min(count, 200)), 8
    images = [files[n % len(files)] for n in range(count)]
    loaded = [model.encode_image(data) for data in files[:batch]]
    whole, alone = Times(), Times()

    def through() -> None:
        start, marks = time.perf_counter(), []
        for number, answer in enumerate(model.predict_many(images, "<OD>", batch_size=batch, max_new_tokens=32)):
            assert isinstance(answer, Failure) == (len(images[number]) < 20)
            if number % max(1, count // 4) == 0:
                marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        table.note("images_per_s", round(count / (time.perf_counter() - start), 2))
        table.note("peak_mb_by_quarter", [round(mark) for mark in marks])

    def only_model() -> None:
        pixels = torch.zeros(batch, 3, model.config.image_size_wh[1], model.config.image_size_wh[0])
        for _ in range(max(1, count // batch)):
            with torch.inference_mode():
                model.model.encode_image(pixels)
            model.answer([model.request(one, ["<OD>"], max_new_tokens=32) for one in loaded])

    table = Table("throughput", args)
    for _ in range(1 if args.quick else 3):
        alone.run(only_model)
        whole.run(through)
    table.row("of_model", f"{count} JPEGs beside the model alone", alone, whole)
    table.end()


if __name__ == "__main__":
    main()
