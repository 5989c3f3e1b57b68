"""Bash that is there in every image that has it: contexts of the language `bash`, and what sessions run."""

from __future__ import annotations

import os

from execd.kernel.manifest import Manifest

BASH = Manifest(
    language="bash",
    command=("bash", os.path.join(os.path.dirname(__file__), "bash", "start.bash")),
)
