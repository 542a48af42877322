"""The vision tower and projector on one picture: ours in each tier beside theirs, in float32 and in bfloat16."""

import torch

from benchmarks.pairs import Floor, Table, alternate, arguments, difference
from benchmarks.twin_models import TIERS, Twins


def main() -> None:
    args = arguments(__doc__, pairs=5).parse_args()
    torch.set_num_threads(args.threads)
    pairs = 1 if args.quick else args.pairs
    twins = Twins(args.quick, theirs=("float32", "bfloat16"))
    floor = Floor(args.threads)
    print(floor.told())
    tower = twins.work(1)[0]

    @torch.inference_mode()
    def ours(tier):
        return twins.ours[tier].encode_image(twins.pixels).float()

    @torch.inference_mode()
    def theirs(name):
        model = twins.theirs[name]
        return model.get_image_features(twins.pixels.to(model.dtype)).pooler_output.float()

    calls = {tier: lambda tier=tier: ours(tier) for tier in TIERS}
    calls |= {f"their {name}": lambda name=name: theirs(name) for name in twins.theirs}
    times = alternate(calls, pairs)
    table, exact = Table("vision", args), theirs("float32")
    for tier in TIERS:
        error = difference(ours(tier), exact)
        table.row(tier, f"tower, {tier}", times["their float32"], times[tier], floor.seconds(tier, tower), error)
        table.note(f"error_{tier}", error)
    table.row("bf16_bf16", "tower, both bfloat16", times["their bfloat16"], times["bfloat16"])
    table.note("gflop", round(tower))
    table.end()


if __name__ == "__main__":
    main()
