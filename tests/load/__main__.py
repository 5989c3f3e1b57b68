"""`python -m tests.load`: soak a server, print the table, write it as JSON; status 1 if anything failed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.load.soak import Load, complaints, soak, table


def main() -> int:
    """Parse the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--live", type=int, default=200, help="sandboxes that are alive at once in the end")
    parser.add_argument("--commands", type=int, default=500, help="commands that are run in them at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"))
    options = parser.parse_args()
    result = soak(Load(options.seconds, options.clients, options.live, options.commands, options.seed))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{table(result)}\n\nwritten to {options.json}")
    return 1 if complaints(result) else 0


if __name__ == "__main__":
    sys.exit(main())
