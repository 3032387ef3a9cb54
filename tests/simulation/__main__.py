"""python -m tests.simulation SEED [COUNT]: plays one run and prints its story, or COUNT of them and prints what came of them."""

from __future__ import annotations

import sys
import time

from tests.simulation.run import Broken, Report, play


def main() -> int:
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    total, began = Report(), time.process_time()
    for seed in range(first, first + count):
        try:
            report = play(seed)
        except Broken as broken:
            print(broken)
            return 1
        total.add(report)
        if count == 1:
            print("\n".join(report.story))
    seconds = time.process_time() - began
    print(f"{total.runs} runs, {total.rounds} rounds, {total.released} released; {total.rounds / seconds:.0f} rounds a CPU s")
    print(", ".join(f"{name} {number}" for name, number in total.faults.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
