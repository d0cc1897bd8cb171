"""A program as users write it, for the tests that start one: `program.py <url> [run id]`. Says what it does on stdout.
The same as the TypeScript SDK's, so that either can finish what the other began."""

import sys
import time

from tidebase import Tidebase

tide = Tidebase(sys.argv[1])


def program(run):  # type: ignore[no-untyped-def]
    print(f"run {run.id} attempt {run.attempt}", flush=True)
    for n in (1, 2, 3):
        run.step("work", lambda n=n: print(f"step {n}", flush=True), each=True)
        # Killed here the first time.
        if n == 2 and run.attempt == 1:
            time.sleep(60)
    run.gate("quick", "Quick?", timeout_s=0.001)
    return "done"


print(tide.run("program", program, run_id=sys.argv[2] if len(sys.argv) > 2 else None), flush=True)
