"""What a program is started with: variables, working directory, user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execd.errors import ExecdError
from execd.launch import environment as module
from execd.launch.environment import DEFAULT_PATH, Environment, Identity, parse_env_file


def environment(env_file: Path | str = "/nonexistent", **base: str) -> Environment:
    """An environment whose container sets these variables."""
    return Environment({"EXECD_ENVS": str(env_file), "HOME": "/home/u", **base}, "/srv")


def refusal(error: pytest.ExceptionInfo[ExecdError]) -> tuple[str, str]:
    return error.value.code, error.value.message


def test_an_image_without_path_gets_one() -> None:
    assert environment().prepare().env["PATH"] == DEFAULT_PATH
    assert environment(PATH="/opt/bin").prepare().env["PATH"] == "/opt/bin"


def test_home_comes_from_the_account_where_the_image_sets_none() -> None:
    env = Environment({}, "/").prepare().env

    assert env["HOME"] == os.path.expanduser(f"~{os.environ.get('USER', 'root')}")


def test_every_program_is_told_where_the_environment_file_is() -> None:
    """`commands.set_env` fails without it."""
    assert Environment({}, "/").prepare().env["EXECD_ENVS"] == module.DEFAULT_ENV_FILE


def test_later_sources_win(tmp_path: Path) -> None:
    """The container's, then the claim's, then the file's, then the request's."""
    env_file = tmp_path / "env"
    env_file.write_text("C='file'\nD='file'\n")
    env = environment(env_file, A="base", B="base", C="base", D="base")
    env.bind({"B": "claim", "C": "claim", "D": "claim"})

    prepared = env.prepare(env={"D": "request"}).env

    assert [prepared[name] for name in "ABCD"] == ["base", "claim", "file", "request"]


def test_the_file_is_read_anew_for_every_command(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env = environment(env_file)
    assert "X" not in env.prepare().env

    env_file.write_text("X='1'\n")
    assert env.prepare().env["X"] == "1"

    env_file.write_text("X='1'\nX='2'\n")
    assert env.prepare().env["X"] == "2"


def test_a_claim_may_name_another_environment_file(tmp_path: Path) -> None:
    """What programs are told, and append to, is what is read."""
    env_file = tmp_path / "env"
    env_file.write_text("X='1'\n")
    env = environment()
    env.bind({"EXECD_ENVS": str(env_file)})

    prepared = env.prepare().env
    assert (prepared["EXECD_ENVS"], prepared["X"]) == (str(env_file), "1")


def test_what_is_no_regular_file_is_no_environment_file(tmp_path: Path) -> None:
    """A FIFO must not stop execd, a symlink must not show another user's file."""
    fifo, link, real = tmp_path / "fifo", tmp_path / "link", tmp_path / "real"
    os.mkfifo(fifo)
    real.write_text("X='1'\n")
    link.symlink_to(real)

    for path in (fifo, link, tmp_path, tmp_path / "missing"):
        assert "X" not in environment(path).prepare().env
    assert environment(real).prepare().env["X"] == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_user_does_not_decide_what_roots_commands_run_with(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("X='1'\n")
    os.chown(env_file, 4242, 4242)

    assert "X" not in environment(env_file).prepare().env
    assert environment(env_file).prepare(uid=4242).env["X"] == "1"


def test_environment_file_syntax() -> None:
    """The two forms that the SDKs write, plain values as people write them; anything else is skipped."""
    text = (
        "A='it is $HOME \\n'\n"
        'B="it\'s \\"so\\": \\\\ $HOME\\n\\t."\n'
        "C='two\nlines'\n"
        "export D=plain value  \n"
        "1BAD='x'\n"
        "E='unterminated\n"
        "F='after'\n"
        "# G='comment'\n"
        "H=\n"
        "I=''\r\n"
        "\n"
        "noise\n"
        "A='last'"
    )

    assert parse_env_file(text) == {
        "A": "last",
        "B": 'it\'s "so": \\ $HOME\n\t.',
        "C": "two\nlines",
        "D": "plain value",
        "F": "after",
        "H": "",
        "I": "",
    }


def test_working_directory_defaults_to_the_claims_then_to_the_containers() -> None:
    env = environment()
    assert env.prepare().cwd == "/srv"

    env.bind({}, "work")
    assert env.prepare().cwd == "/srv/work"
    assert env.prepare(cwd="sub").cwd == "/srv/work/sub"

    env.unbind()
    assert env.prepare().cwd == "/srv"


def test_working_directory_expands_home_and_variables() -> None:
    env = environment(DIR="/data")

    assert env.prepare(cwd="~").cwd == "/home/u"
    assert env.prepare(cwd="~/a").cwd == "/home/u/a"
    assert env.prepare(cwd="~root/a").cwd == "/root/a"
    assert env.prepare(cwd="$DIR/${SUB}x", env={"SUB": "s"}).cwd == "/data/sx"
    assert env.prepare(cwd="/costs/5$").cwd == "/costs/5$"
    assert env.prepare(cwd="/not/~/home").cwd == "/not/~/home"


def test_an_unknown_name_in_the_working_directory_is_refused_by_name() -> None:
    for cwd, name in (("$NOPE/x", "$NOPE"), ("~nobody-at-all/x", "~nobody-at-all")):
        with pytest.raises(ExecdError) as error:
            environment().prepare(cwd=cwd)
        code, message = refusal(error)
        assert code == "request.invalid"
        assert name in message


def test_variables_that_cannot_be_are_refused_and_bind_nothing() -> None:
    env = environment()
    env.bind({"KEPT": "1"})
    for bad in ({"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0y"}):
        with pytest.raises(ExecdError) as error:
            env.prepare(env=bad)
        assert error.value.code == "request.invalid"
        with pytest.raises(ExecdError):
            env.bind(bad)
    assert env.prepare().env["KEPT"] == "1"


def test_a_claim_with_an_impossible_directory_leaves_nothing_bound() -> None:
    env = environment()
    with pytest.raises(ExecdError):
        env.bind({"X": "1"}, "$NOPE")

    assert "X" not in env.prepare().env
    assert env.prepare().cwd == "/srv"


class TestUser:
    """Who a program runs as. The accounts are those of files written by hand, as in the smallest images."""

    @pytest.fixture(autouse=True)
    def _accounts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        passwd, group = tmp_path / "passwd", tmp_path / "group"
        passwd.write_text("root:x:0:0::/root:/bin/sh\nbroken line\nann:x:1001:100::/home/ann:/bin/sh\n")
        group.write_text("root:x:0:\nusers:x:100:\nvideo:x:44:bob,ann\naudio:x:45:annika\n")
        monkeypatch.setattr("execd.launch.accounts.USERS_FILE", str(passwd))
        monkeypatch.setattr("execd.launch.accounts.GROUPS_FILE", str(group))

    def test_a_uid_alone_brings_its_groups_and_its_home(self) -> None:
        launch = environment(USER="root").prepare(uid=1001)

        assert launch.identity == Identity(1001, 100, (44,))
        assert (launch.env["HOME"], launch.env["USER"], launch.env["LOGNAME"]) == ("/home/ann", "ann", "ann")

    def test_a_given_gid_is_taken(self) -> None:
        assert environment().prepare(uid=1001, gid=7).identity == Identity(1001, 7, (44,))

    def test_a_number_without_an_account_is_never_in_roots_group(self) -> None:
        launch = environment(USER="root").prepare(uid=4242)

        assert launch.identity == Identity(4242, 4242, ())
        assert launch.env["HOME"] == "/"
        assert "USER" not in launch.env

    def test_ourselves_needs_no_right(self) -> None:
        assert environment().prepare(uid=os.geteuid(), gid=os.getegid()).identity is None

    def test_the_claims_home_rules_over_the_accounts(self) -> None:
        env = environment()
        env.bind({"HOME": "/claimed"})

        assert env.prepare(uid=1001).env["HOME"] == "/claimed"

    @pytest.mark.parametrize(("uid", "gid"), [(-1, None), (1 << 32, None), (1, -1), (1, (1 << 32) - 1), (None, 1)])
    def test_impossible_numbers_are_refused(self, uid: int | None, gid: int | None) -> None:
        with pytest.raises(ExecdError) as error:
            environment().prepare(uid=uid, gid=gid)
        assert error.value.code == "request.invalid"
