"""python -m tests.fuzz [--seconds N] [--seed S] [PART ...]: damage inputs and see what holds; exit 1 on a fault.

The same seed makes the same inputs. `--count N` stops each part after so many.
"""

import argparse
import sys

from tests.fuzz.attempts import PARTS, run


def main():
    """Run the parts, one after another, in equal shares of the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=180.0, help="in all (180)")
    parser.add_argument("--count", type=int, default=0, help="attempts of each part, in place of a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found_in = []
    print(f"{'part':<15}{'target':<24}{'tried':>9}{'faults':>9}")
    for part in args.parts:
        tried, faults = run(part, args.seed, 0 if args.count else args.seconds / len(args.parts), args.count)
        for target, count in sorted(tried.items()):
            found = sum(attempt.target == target for attempt in faults)
            print(f"{part:<15}{target:<24}{count:>9}{found:>9}")
        found_in += [(part, attempt) for attempt in faults[:20]]
    for part, attempt in found_in:  # last, where a log that is cut still has them
        print(f"{part}: {attempt.target}: {attempt.name}: {attempt.fault}"[:2000])
    return int(bool(found_in))


if __name__ == "__main__":
    sys.exit(main())
