"""One party of a secure sum with MPyC; `peers.py` starts one such process for each patient.

Every party inputs a vector made from a seed; the sum over all parties is opened to the first party alone, which
stands for the hospital. The fastest documented way is taken: secure arrays over the smallest prime field that holds
the sum, and MPyC's own default threshold of (m-1)//2 colluding parties (ours stands up to n-2). MPyC's links are
plain TCP here.

    python -m benchmarks.mpyc_sum LENGTH RANGE SEED ROUNDS -I PARTY -P HOST:PORT -P HOST:PORT ...

Each party prints one JSON object a round: its wall and CPU seconds, and the first party whether the sum was right.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from mpyc.runtime import mpc

from benchmarks import values


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("length", "range", "seed", "rounds"):
        parser.add_argument(name, type=int)
    asked, _ = parser.parse_known_args()
    parties = len(mpc.parties)
    largest = asked.range // parties
    secret_field = mpc.SecFld(min_order=asked.range + 1)
    mine = values.vector(values.patient_seed(asked.seed, mpc.pid), asked.length, largest)
    plain = values.plain_sum(asked.seed, parties, asked.length, largest) if mpc.pid == 0 else None

    await mpc.start()
    for _ in range(asked.rounds):
        # Nobody starts the clock before everybody has come this far.
        await mpc.transfer(None)
        began, began_cpu = time.perf_counter(), time.process_time()
        inputs = mpc.input(secret_field.array(secret_field.field.array(mine.astype(object))))
        opened = await mpc.output(sum(inputs[1:], start=inputs[0]), receivers=0)
        seconds = time.perf_counter() - began
        # Nobody stops counting its CPU time before everybody is done.
        await mpc.transfer(None)
        report: dict[str, object] = {"seconds": seconds, "cpu": time.process_time() - began_cpu}
        if plain is not None:
            report["correct"] = [int(value) for value in opened.value] == plain.tolist()
        print(json.dumps(report), flush=True)
    await mpc.shutdown()


if __name__ == "__main__":
    sys.exit(mpc.run(main()))
