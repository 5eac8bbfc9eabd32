"""`python -m bench.queue`: fills a waiting room with `PEOPLE` (1,000,000), has `WATCHERS` (19,000) watch, and tells.

It asserts no speed, only that everybody got a place. Nothing else should run on the machine meanwhile.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from bench.queue import plot
from bench.queue.joins import RefusedError
from bench.queue.measure import Scale
from bench.queue.plan import measure
from bench.queue.result import tables
from deploy.local import PackageError, StackError
from deploy.local.seeding import SeedError
from deploy.local.stack import choose_events


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description="Measures the waiting room.")
    parser.add_argument("--people", type=int, default=int(os.environ.get("PEOPLE") or 1_000_000))
    parser.add_argument("--watchers", type=int, default=int(os.environ.get("WATCHERS") or 19_000))
    parser.add_argument("--events", choices=("kafka", "redis"), default=os.environ.get("EVENTS") or None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw them there")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {what}", file=sys.stderr, flush=True)

    try:
        scale = Scale(arguments.people, arguments.watchers)
        result = asyncio.run(measure(choose_events(arguments.events), scale, say))
    except (PackageError, StackError, SeedError, RefusedError) as error:
        sys.exit(f"boxoffice: {error}")
    print(tables(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")
    if arguments.svg:
        arguments.svg.write_text(plot.svg(result))


if __name__ == "__main__":
    main()
