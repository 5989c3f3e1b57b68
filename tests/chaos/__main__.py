"""`python -m tests.chaos`: run rounds of chaos, print the summary, write it as JSON; status 1 if anything was wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.chaos.report import table
from tests.chaos.rounds import open_chaos


async def run(rounds: int, seed: int) -> tuple[dict[str, Any], str]:
    """Run; return the summary, and the server's log if anything was wrong."""
    async with open_chaos(seed) as chaos:
        await chaos.run(rounds, lambda line: print(line, flush=True))
        if not chaos.world.ledger.violations:
            await chaos.end()
        summary = chaos.summary()
        return summary, chaos.world.server.log if summary["violations"] else ""


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="that of an earlier run repeats it")
    parser.add_argument("--json", type=Path, default=Path("build/chaos.json"))
    options = parser.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    summary, log = asyncio.run(run(options.rounds, options.seed))
    options.json.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{table(summary)}\n\nwritten to {options.json}")
    if log:
        options.json.with_suffix(".log").write_text(log)
        print(f"the server's log is in {options.json.with_suffix('.log')}")
    return 1 if summary["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
