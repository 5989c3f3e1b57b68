"""LangChain's standard tests for sandboxes, against this server."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.support.server.live_server import LiveServer, python_with

SUITE = Path(__file__).parent / "clients" / "langchain_suite.py"
PACKAGES = ("langchain-opensandbox==0.1.0", "langchain-tests==1.1.9", "opensandbox==1.1.1")
PASSED = 84  # of the 86 of that version; why two cannot pass is said in the suite


def test_the_standard_suite_passes(server: LiveServer) -> None:
    """Through one provider of others, with the official client below it."""
    done = subprocess.run(
        [
            *(python_with("langchain", PACKAGES), "-m", "pytest", SUITE, "-q", "-p", "no:cacheprovider", "--color=no"),
            *("-c", os.devnull, "--rootdir", SUITE.parent, "--import-mode=importlib", "-o", "asyncio_mode=auto"),
            "--noconftest",  # ours needs what is not installed there
        ],
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert (found := re.search(r"(\d+) passed", done.stdout)), done.stdout[-2000:]
    assert int(found[1]) == PASSED
