"""`python -m execd SOCKET`, for tests and for the curious; containers start it through images/execd/boot.py."""

import sys

from execd.main import main

sys.exit(main(sys.argv[1:]))
