"""``make bench``: measures the hot paths and prints ratios with their raw figures; never fails for a target missed."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
import time

import machine
import orjson
from report import Result, say
from stack import BenchFailedError, stack

BENCHES = {
    "update_check": "polls",
    "known_nodes": "polls",
    "nebraska": "nebraska",
    "download": "downloads",
    "reports": "reports",
    "halt": "halts",
    "dialects": "dialects",
    "conductor": "conductor",
}


async def run(names: list[str], *, quick: bool) -> list[Result]:
    """Run benches one after the other, each on servers of its own."""
    results = []
    for name in names:
        say(f"\n-- {name}")
        bench = getattr(importlib.import_module(BENCHES[name]), name)
        began = time.monotonic()
        async with stack() as servers:
            try:
                result = await bench(servers, quick=quick)
            except BenchFailedError as error:
                result = Result(name, f"{name} could not be run")
                result.notes.append(str(error))
        result.seconds = time.monotonic() - began
        result.print()
        results.append(result)
    return results


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(BENCHES), help="this bench only; may be given again")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds: figures are less sure")
    parser.add_argument("--json", action="store_true", help="print everything as JSON on standard output")
    arguments = parser.parse_args()
    about = machine.describe()
    say("  ".join(f"{name}: {value}" for name, value in about.items()))
    results = asyncio.run(run(arguments.only or list(BENCHES), quick=arguments.quick))
    about["load_after"] = round(os.getloadavg()[0], 2)
    if arguments.json:
        sys.stdout.write(
            orjson.dumps(
                {
                    "machine": about,
                    "quick": arguments.quick,
                    "benches": [
                        {
                            "name": result.name,
                            "title": result.title,
                            "seconds": result.seconds,
                            "table": result.table,
                            "targets": [
                                {"what": t.what, "wanted": t.wanted, "seen": t.seen, "reached": t.reached}
                                for t in result.targets
                            ],
                            "notes": result.notes,
                            "raw": result.raw,
                        }
                        for result in results
                    ],
                },
                option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY,
            ).decode()
            + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
