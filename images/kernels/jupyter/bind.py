"""Execute a kernel that ends when its parent ends, however the parent ends: bind.py ARGV…"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

parent = int(os.environ.get("JPY_PARENT_PID", "0"))
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if parent and os.getppid() != parent:  # the parent has ended already
    sys.exit(1)
os.execvp(sys.argv[1], sys.argv[1:])
