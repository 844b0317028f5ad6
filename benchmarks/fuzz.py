"""Ten thousand damaged inputs and more: bitstreams, checkpoints, tables, manifests, graphs, options, zips and pictures.

    python -m benchmarks.fuzz [--count 800] [--seed 0] [--formats csw pt ...] [--save DIR] [--reasons]

Each input must be accepted, or refused in one sentence, within 10 s and 1 GiB above the start, with nothing started,
connected to, unpickled or written. What does otherwise is listed, and kept with --save; exit code 1. The inputs depend on
the seed alone. (The harness is in tests/fuzz; the suite runs it with fewer inputs.)
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))

from fuzz_judge import FORMATS, judge

from codecswap.console import say, show_table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=800, help="inputs of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--save", type=Path, help="folder for inputs that did what they must not")
    parser.add_argument("--reasons", action="store_true", help="list what was said, and how often")
    options = parser.parse_args()
    counts = judge(dict.fromkeys(options.formats, options.count), seed=options.seed, save=options.save)
    rows = [
        [
            format,
            f"{count.inputs:,}",
            f"{count.accepted:,}",
            f"{count.refused:,}",
            f"{len(count.violations):,}",
            f"{count.peak / 1e6:.0f}",
            f"{count.seconds:.0f}",
        ]
        for format, count in counts.items()
    ]
    all = counts.values()
    numbers = [sum(c.inputs for c in all), sum(c.accepted for c in all), sum(c.refused for c in all)]
    violations = [line for count in all for line in count.violations]
    seconds = sum(count.seconds for count in all)
    numbers = [*numbers, len(violations)]
    rows.append(["all", *(f"{n:,}" for n in numbers), f"{max(c.peak for c in all) / 1e6:.0f}", f"{seconds:.0f}"])
    columns = ["format", "inputs", "accepted", "refused cleanly", "violations", "peak MB above start", "s"]
    show_table(f"Damaged inputs, seed {options.seed}", columns, rows)
    if options.reasons:
        for format, count in counts.items():
            for words, number in count.reasons.most_common(12):
                say(f"{format:>12} {number:>5}  {words}")
    for line in violations:
        say(line)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
