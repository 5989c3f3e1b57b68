"""What bubblewrap is told for a session. That it comes about so is `tests/e2e/test_isolation.py`'s to show."""

from __future__ import annotations

from execd.session.bubblewrap import environment, merged, options, overlaid
from execd.wire.messages import Isolation, IsolationBind, IsolationMount

PLAIN = Isolation(mounts=(IsolationMount("/ws", "rw"),))


def told(isolation: Isolation) -> list[str]:
    return options(isolation, {"A": "b"}, "/tmp/jobs-of-it")


def places(isolation: Isolation) -> list[tuple[str, str, str]]:
    """What is mounted from somewhere, in order: option, source, target."""
    words = told(isolation)
    return [(word, words[at + 1], words[at + 2]) for at, word in enumerate(words) if word in ("--bind", "--ro-bind")]


def test_everything_is_read_only_but_what_is_named() -> None:
    """And execd's socket is behind an empty directory, whatever was put there before."""
    assert places(PLAIN) == [
        ("--ro-bind", "/", "/"),
        ("--bind", "/proc", "/proc"),
        ("--bind", "/ws", "/ws"),
        ("--bind", "/tmp/jobs-of-it", "/run/sandlot/jobs"),
    ]
    words = told(Isolation(mounts=(IsolationMount("/run", "rw"),)))
    assert words.index("/run/sandlot") > words.index("/run")
    assert words[words.index("/run/sandlot") - 1] == "--tmpfs"


def test_what_is_deeper_comes_on_top() -> None:
    """In whatever order it was asked for; the root itself is the lowest."""
    isolation = Isolation(
        mounts=(IsolationMount("/a/b/c", "rw"), IsolationMount("/a", "overlay"), IsolationMount("/", "rw")),
        binds=(IsolationBind("/x", "/a/b", read_only=True),),
    )
    assert overlaid(isolation) == ["/a"]
    assert [place for place in places(isolation) if place[2] not in ("/proc", "/run/sandlot/jobs")] == [
        ("--bind", "/", "/"),
        ("--bind", merged(0), "/a"),
        ("--ro-bind", "/x", "/a/b"),
        ("--bind", "/a/b/c", "/a/b/c"),
    ]


def test_namespaces_and_names() -> None:
    """A network is shared when that is said; numbers are told only where they are only called so."""
    assert "--unshare-net" not in told(PLAIN)
    words = told(Isolation(mounts=PLAIN.mounts, network=False, uid=5, gid=6, only_called=True))
    assert {"--unshare-net", "--unshare-user", "--unshare-pid", "--die-with-parent", "--new-session"} <= set(words)
    assert (words[words.index("--uid") + 1], words[words.index("--gid") + 1]) == ("5", "6")
    assert "--uid" not in told(Isolation(mounts=PLAIN.mounts, uid=5, gid=6))


def test_variables() -> None:
    """Those that are named, or all but those; and what no shell can be without. They start from none."""
    all_of_them = {"PATH": "/bin", "LC_ALL": "C", "SECRET": "x", "OTHER": "y"}
    only = Isolation(mounts=PLAIN.mounts, env_only=("OTHER",))
    without = Isolation(mounts=PLAIN.mounts, env_without=("SECRET", "PATH"))
    assert environment(PLAIN, all_of_them) == all_of_them
    assert environment(only, all_of_them) == {"PATH": "/bin", "LC_ALL": "C", "OTHER": "y"}
    assert environment(without, all_of_them) == {"LC_ALL": "C", "OTHER": "y"}
    assert told(PLAIN)[-4:] == ["--clearenv", "--setenv", "A", "b"]
