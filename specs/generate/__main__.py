"""Write every file of `specs/`, and `docs/configuration.md`, from the code: `make specs`."""

from __future__ import annotations

import sys

from specs.generate import api, configuration, link
from tests.architecture.sources import ROOT

if __name__ == "__main__":
    api.main()
    link.main()
    (ROOT / "docs" / "configuration.md").write_text(configuration.page())
    sys.stdout.write("wrote docs/configuration.md\n")
