"""For all tests."""

import signal

# Whoever starts this may ignore SIGINT, as shells do for `… &`. What we start would inherit that, and never be
# interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
