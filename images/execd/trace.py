"""Find the modules execd needs: trace.py PACKAGES SOCKET NAME…  Started by tree.py, like execd (-I -S).

Imports the names, makes a connection to the echo server at SOCKET, and prints a line "module<TAB>file" for everything
that is loaded then. Imports nothing at the top that could be mistaken for a need of execd.
"""

import sys

# Imported only when something rare happens, so no trace meets them: error reports, odd encodings, file walks.
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
    assert inspect.currentframe()  # no stand-in has it: loads the real one
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name not in {"__main__", "boot"}:
            print(name, file, sep="\t")


async def converse(path: str) -> None:
    """What a link lives through: it is refused, opens, talks, is asked for a sign of life, closes."""
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
            raise SystemExit("trace: the echo server answered something else")
        await (await connection.ping())
        await connection.send("bye")
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            str(closed)


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    main(*sys.argv[1:])
