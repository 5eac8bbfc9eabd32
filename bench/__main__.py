"""`python -m bench`: measures codecs and the whole shop, and prints tables. It asserts no speed, only promises.

Nothing else should run on the machine meanwhile; the figures that travel are the ratios to ceilings of the same run.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from bench import codecs, reserve
from bench.reserve import OversoldError, Result
from deploy.local import PackageError, StackError
from deploy.local.seeding import SeedError
from deploy.local.stack import choose_events

_BUYERS = 20_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures this machine and Boxoffice on it.")
    parser.add_argument("part", nargs="?", choices=("all", "codecs", "reserve"), default="all")
    parser.add_argument("--events", choices=("kafka", "redis"), default=os.environ.get("EVENTS") or None)
    parser.add_argument("--buyers", type=int, default=_BUYERS, help=f"and as many seats; default {_BUYERS:,}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of `reserve` there as well")
    return parser.parse_args()


def _reserve(arguments: argparse.Namespace) -> Result:
    result = asyncio.run(reserve.measure(choose_events(arguments.events), arguments.buyers))
    print(reserve.table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")
    return result


def main() -> None:
    arguments = _arguments()
    try:
        if arguments.part in {"all", "codecs"}:
            codecs.main()
            print()
        if arguments.part in {"all", "reserve"}:
            _reserve(arguments)
    except (PackageError, StackError, SeedError, OversoldError) as error:
        sys.exit(f"boxoffice: {error}")


if __name__ == "__main__":
    main()
