"""A decoded picture to the tower's input: ours, equal to the bit, beside transformers' image processor on Pillow."""

import numpy as np
import torch

from benchmarks.pairs import Table, alternate, arguments, difference
from florence2.model.image import preprocess
from florence2.model.model_config import SIZES

SIDES = {"photo, 1920x1080": (1080, 1920), "page, 1700x2200": (2200, 1700), "as it is, 768x768": (768, 768)}


def main() -> None:
    from PIL import Image
    from transformers import CLIPImageProcessor

    args = arguments(__doc__, pairs=15).parse_args()
    torch.set_num_threads(args.threads)
    config = SIZES["base"]
    width, height = config.image_size_wh
    processor = CLIPImageProcessor(
        size={"height": height, "width": width}, resample=3, do_center_crop=False, do_resize=True,
        image_mean=list(config.image_mean), image_std=list(config.image_std),
    )  # fmt: skip
    table = Table("preprocess", args)
    for name, (rows, columns) in SIDES.items():
        picture = np.random.default_rng(0).integers(0, 256, (rows // 8, columns // 8, 3), np.uint8)
        picture = np.asarray(Image.fromarray(picture).resize((columns, rows), 3))
        image = Image.fromarray(picture)
        calls = {
            "ours": lambda picture=picture: preprocess(picture, config),
            "theirs": lambda image=image: processor(image, return_tensors="pt")["pixel_values"][0],
        }
        times = alternate(calls, 5 if args.quick else args.pairs)
        error = difference(torch.from_numpy(calls["ours"]()), calls["theirs"]())
        table.row(name.split(",")[0].replace(" ", "_"), name, times["theirs"], times["ours"], error=error)
    table.end()


if __name__ == "__main__":
    main()
