"""Print the libraries that a pyproject.toml needs, one a line, for pip's -r: libraries.py pyproject.toml."""

import sys
import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path(sys.argv[1]).read_text())["project"]["dependencies"]))
