"""Find the modules that execd needs: trace.py PACKAGES SOCKET NAME…  tree.py starts it in the way of execd (-I -S).

The script imports the names, connects to the echo server at SOCKET, and prints a line "module<TAB>file" for every
loaded module. At its top it imports nothing that could be mistaken for a need of execd.
"""

import sys

# Imported only when something rare happens, which no trace shows: error reports, odd encodings, file walks.
RARE = (
    *("array", "bisect", "codeop", "errno", "fcntl", "fnmatch", "glob", "grp", "json", "linecache", "mimetypes"),
    *("pathlib", "pty", "pwd", "queue", "resource", "select", "shutil", "signal", "socket", "stat", "stringprep"),
    *("tempfile", "termios", "textwrap", "tokenize", "tomllib", "traceback", "tty", "unicodedata", "zlib"),
    *("asyncio.taskgroups", "concurrent.futures.thread", "ctypes", "logging.handlers"),
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.punycode", "encodings.utf_8_sig"),
)


def main(packages: str, path: str, *names: str) -> None:
    import boot

    sys.path.insert(0, packages)
    boot.install_stand_ins()
    for name in (*names, *RARE):
        __import__(name)
    import asyncio
    import inspect

    asyncio.run(converse(path))
    assert inspect.currentframe()  # no stand-in has it: this loads the real module
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name not in {"__main__", "boot"}:
            print(name, file, sep="\t")


async def converse(path: str) -> None:
    """Take a link through its life: refused, opened, used, pinged, closed."""
    from websockets.asyncio.client import unix_connect
    from websockets.exceptions import ConnectionClosed

    try:
        async with unix_connect(f"{path}.missing", uri="ws://controlplane/link", proxy=None):
            pass
    except OSError:
        pass
    async with unix_connect(path, uri="ws://controlplane/link", compression=None, proxy=None) as connection:
        await connection.send(b"hello")
        if await connection.recv() != b"hello":
            raise SystemExit("trace: the echo server returned another message")
        await (await connection.ping())
        await connection.send("bye")
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            str(closed)


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    main(*sys.argv[1:])
