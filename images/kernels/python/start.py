"""The start of Python's runner: a zygote if $SANDLOT_ZYGOTE_FD is set, otherwise the runner of one context.

The contract is docs/runner-protocol.md. Everything else is in the package beside this file, so that no module of the
runner can be mistaken for one of the user's.
"""

import gc
import os
import sys


def run() -> None:
    """Import the package beside this file, whatever the working directory and PYTHONPATH are."""
    gc.disable()  # until everything that stays has been created
    sys.path.pop(0)  # the directory of this file
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    from sandlot_python import zygote

    sys.path.remove(here)
    zygote.main(os.environ)


if __name__ == "__main__":
    run()
