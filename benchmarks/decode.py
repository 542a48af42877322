"""A decoding step in ms at batch 1 and 8 and for three beams: ours in each tier beside theirs; 591 encoder positions.

Also what a span of locations saves, and one thread beside all of them.
"""

import statistics

import torch

from benchmarks.pairs import Floor, Table, alternate, arguments
from benchmarks.twin_models import TIERS, Twins


def main() -> None:
    args = arguments(__doc__, pairs=7).parse_args()
    torch.set_num_threads(args.threads)
    steps, pairs = (4, 2) if args.quick else (32, args.pairs)
    twins, floor, table = Twins(args.quick), Floor(args.threads), None
    print(floor.told(), f"; a row is {steps} steps")
    table = Table("decode", args)
    for samples, beams in ((1, 1), (1, 3), (8, 1)):
        rows = samples * beams
        calls = {tier: _steps(twins, tier, samples, beams, steps) for tier in TIERS}
        calls["locations"] = _steps(twins, "float32", samples, beams, steps, (50269, 51269))
        calls["theirs"] = _their_steps(twins, samples, beams, steps)
        times = alternate(calls, pairs)
        step = twins.work(samples, beams)[2]
        for tier in TIERS:
            least = floor.seconds(tier, 0, steps * step, "one" if rows < 4 else "few")
            name = f"{samples} sample(s) x {beams}, {tier}"
            table.row(f"{tier}_{samples}x{beams}", name, times["theirs"], times[tier], least)
            table.note(f"ms_{tier}_{samples}x{beams}", round(1e3 * statistics.median(times[tier].wall) / steps, 2))
        table.row(f"locations_{samples}x{beams}", "  float32, locations only", times["float32"], times["locations"])
    if args.threads > 1:
        one, all_threads = _steps(twins, "float32", 1, 1, steps), _steps(twins, "float32", 1, 1, steps)
        calls = {"one": lambda: _with(1, one), "all": lambda: _with(args.threads, all_threads)}
        times = alternate(calls, pairs)
        table.row("all_threads", f"1 thread beside {args.threads}", times["one"], times["all"])
    table.end()


def _with(threads, call):
    torch.set_num_threads(threads)
    return call()


def _steps(twins, tier, samples, beams, steps, span=None):
    """A call of so many steps over a cache that is made each time, the making not counted: it is kept small."""
    model = twins.ours[tier]
    with torch.inference_mode():
        features = model.encode_image(twins.pixels).expand(samples, -1, -1)
        memory, mask = model.read(features, twins.ids[:samples], None)

    @torch.inference_mode()
    def call():
        cache = model.language.start(memory, mask)
        cache.select([row for row in range(samples) for _ in range(beams)])
        for number in range(steps):
            model.logits(model.states(torch.full((samples * beams,), 100 + number), cache), span)

    return call


def _their_steps(twins, samples, beams, steps):
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    theirs = twins.theirs["float32"]
    with torch.inference_mode():
        features = twins.plain.encode_image(twins.pixels).expand(samples, -1, -1)
        memory = twins.plain.read(features, twins.ids[:samples], None)[0].repeat_interleave(beams, 0)
    decoder = theirs.model.language_model.decoder

    @torch.inference_mode()
    def call():
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for number in range(steps):
            ids = torch.full((samples * beams, 1), 100 + number)
            out = decoder(input_ids=ids, encoder_hidden_states=memory, past_key_values=cache, use_cache=True)
            theirs.lm_head(out.last_hidden_state)

    return call


if __name__ == "__main__":
    main()
