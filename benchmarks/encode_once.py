"""Eight prompt-only tasks on one picture: ours encodes it once and answers in one batch, theirs generates eight times.

Also against theirs as a batch of eight, and bfloat16 against theirs in bfloat16. Random weights of the base size.
"""

import torch

from benchmarks.pairs import Floor, Table, alternate, arguments
from benchmarks.twin_models import PROMPTS, TIERS, Twins


def main() -> None:
    args = arguments(__doc__, pairs=3).parse_args()
    torch.set_num_threads(args.threads)
    tokens, pairs = (4, 1) if args.quick else (64, args.pairs)
    twins = Twins(args.quick, theirs=("float32",) if args.quick else ("float32", "bfloat16"))
    floor = Floor(args.threads)
    print(floor.told())
    tower, read, step = twins.work(PROMPTS)
    calls = {tier: lambda tier=tier: twins.answer(tier, PROMPTS, tokens) for tier in TIERS}
    for name in twins.theirs:
        calls[f"their {name}"] = lambda name=name: [
            twins.their_answer(name, slice(n, n + 1), tokens) for n in range(PROMPTS)
        ]
    calls["their batch"] = lambda: twins.their_answer("float32", slice(0, PROMPTS), tokens)
    times = alternate(calls, pairs)
    table = Table("encode_once", args)
    quick_bf16 = floor.rate("bfloat16", "many") >= 2 * floor.rate("float32", "many")
    for tier in TIERS:
        key = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}[tier]
        key += "_where_slow" if tier == "bfloat16" and not quick_bf16 else ""
        least = floor.seconds(tier, tower + read, tokens * step, "few")
        table.row(key, f"eight tasks, {tier}", times["their float32"], times[tier], least)
    table.row("fp32_batch", "eight tasks, their batch", times["their batch"], times["float32"])
    if "their bfloat16" in times:
        table.row("bf16_bf16", "eight tasks, both bfloat16", times["their bfloat16"], times["bfloat16"])
    ours = twins.answer("float32", PROMPTS, tokens)
    theirs = [twins.their_answer("float32", slice(n, n + 1), tokens)[0] for n in range(PROMPTS)]
    table.note("equal_ids_fp32", sum(a == b for a, b in zip(ours, theirs)) / PROMPTS)
    for tier in TIERS[1:]:
        other = twins.answer(tier, PROMPTS, tokens)
        same = [a == b for one, two in zip(other, ours) for a, b in zip(one, two)]
        table.note(f"equal_tokens_{tier}", round(sum(same) / len(same), 3))
    table.note("tiers", {tier: told["products"] for tier, told in twins.told.items()})
    table.end()


if __name__ == "__main__":
    main()
