"""The bash that execd brings: contexts of the language `bash`, and sessions. The image needs the program bash."""

from __future__ import annotations

import os

from execd.kernel.runner.manifest import Manifest

BASH = Manifest(
    language="bash",
    command=("bash", os.path.join(os.path.dirname(__file__), "bash", "start.bash")),
)
