"""Say why pip fails in a sandbox without a network. The .pth file has every Python call `watch()` as it starts."""

import sys

MESSAGE = (
    "sandlot: this sandbox has no network, so nothing can be fetched; the server's setting allow_network gives one"
)
FETCHING = {"download", "index", "install", "wheel"}


def watch():
    """If this process is a pip that fetches packages, have it print the reason when it fails."""
    if not (is_pip(sys.orig_argv) and FETCHING & set(sys.orig_argv)):
        return
    leave = sys.exit

    def leave_with_reason(status=None):
        if status:
            print(MESSAGE, file=sys.stderr)
        leave(status)

    sys.exit = leave_with_reason  # both `pip` and `python -m pip` end by it


def is_pip(argv):
    """Tell whether a command line is `python … -m pip …` or that of a script named pip."""
    words = argv[1:]
    while words and words[0].startswith("-"):
        if words[0] == "-m":
            return words[1:2] == ["pip"]
        words = words[2 if words[0] in ("-W", "-X") else 1 :]
    return bool(words) and words[0].rpartition("/")[2].rstrip("0123456789.") == "pip"
