"""Print the libraries that a pyproject.toml needs, traces included, for pip's -r: libraries.py pyproject.toml."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
print("\n".join([*project["dependencies"], *project["optional-dependencies"]["traces"]]))
