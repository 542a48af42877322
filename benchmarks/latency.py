"""One answer about one picture, greedy and with three beams, from pixels to ids: ours in each tier beside theirs."""

import torch

from benchmarks.pairs import Floor, Table, alternate, arguments
from benchmarks.twin_models import TIERS, Twins


def main() -> None:
    args = arguments(__doc__, pairs=5).parse_args()
    torch.set_num_threads(args.threads)
    tokens, pairs = (6, 1) if args.quick else (64, args.pairs)
    twins = Twins(args.quick)
    floor = Floor(args.threads)
    print(floor.told())
    table = Table("latency", args)
    for beams in (1, 3):
        _rows(twins, floor, table, tokens, beams, pairs)
    table.end()


def _rows(twins: Twins, floor: Floor, table: Table, tokens: int, beams: int, pairs: int) -> None:
    tower, read, step = twins.work(1, beams)
    calls = {tier: lambda tier=tier: twins.answer(tier, 1, tokens, beams) for tier in TIERS}
    calls["theirs"] = lambda: twins.their_answer("float32", slice(0, 1), tokens, beams)
    times = alternate(calls, pairs)
    for tier in TIERS:
        least = floor.seconds(tier, tower + read, tokens * step, "one" if beams == 1 else "few")
        table.row(f"{tier}_{beams}", f"{beams} beam(s), {tier}", times["theirs"], times[tier], least)
    table.note(f"equal_ids_{beams}", calls["float32"]() == calls["theirs"]())


if __name__ == "__main__":
    main()
