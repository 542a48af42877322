"""How many scenes and pages a second one process draws. Prints a table and one JSON line."""

import json
import time

from florence2.scenes import draw, draw_page

CASES = {  # name -> (how many, how one is drawn)
    "scene 128 px, 1-3 objects": (400, lambda seed: draw(seed)),
    "scene 128 px, 1-8 small objects": (200, lambda seed: draw(seed, objects=(1, 8), min_side=0.08, max_side=0.35)),
    "scene 640 px, 1-3 objects": (30, lambda seed: draw(seed, size=640)),
    "page 384x512, 6-12 lines": (40, lambda seed: draw_page(seed)),
}


def main() -> None:
    rates = {}
    for name, (count, one) in CASES.items():
        for seed in range(3):
            one(seed)  # fonts are read once
        start = time.process_time()
        for seed in range(count):
            one(seed)
        rates[name] = round(count / (time.process_time() - start), 1)
        print(f"{name:<34} {rates[name]:>8.1f} a second")
    print(json.dumps({"benchmark": "scenes", "per_second": rates}))


if __name__ == "__main__":
    main()
