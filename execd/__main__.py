"""`python -m execd SOCKET`, for tests and experiments. Containers start execd through images/execd/boot.py."""

import sys

from execd.main import main

sys.exit(main(sys.argv[1:]))
