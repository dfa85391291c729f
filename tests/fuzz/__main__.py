"""`python -m fuzz --minutes 10 [--seed S]`: random cases until the time is over; exits with 1 if one failed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from itertools import count

from fuzz import interpret
from fuzz.draw import BACKENDS, OPS
from fuzz.process import verdicts
from fuzz.shrink import shrink
from fuzz.twist import draw

BATCH = 40  # cases of one op and backend in a row


def main() -> int:
    """Runs the fuzz; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--seed", type=int, default=None, help="where to begin (from the clock)")
    parser.add_argument("--ops", default=",".join(OPS), help="of these ops only")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="of these backends only")
    parser.add_argument("--show", type=int, default=3, help="failures printed of one op, backend and kind (3)")
    given = parser.parse_args()
    interpret()
    seed = int(time.time()) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    began, tried, failures = time.monotonic(), 0, Counter()
    for start in count(seed, BATCH):
        for op in given.ops.split(","):
            for backend in given.backends.split(","):
                for case, wrong in verdicts([draw(op, backend, i) for i in range(start, start + BATCH)]):
                    tried += 1
                    if wrong:
                        kind = (op, backend, wrong.split(":")[0][:40])
                        failures[kind] += 1
                        if failures[kind] <= given.show:
                            case, wrong = shrink(case, wrong)
                            print(f"FAILED: {wrong}\n    from fuzz import *; replay({case!r})", flush=True)
                if time.monotonic() - began > 60 * given.minutes:
                    seconds = time.monotonic() - began
                    print(
                        f"{tried} cases in {seconds:.0f} s, {tried / seconds:.1f} a second; {failures.total()} failed"
                    )
                    for (op, backend, words), n in failures.most_common():
                        print(f"{n:6d}  {op} on {backend}: {words}")
                    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
