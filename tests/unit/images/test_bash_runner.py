"""Bash as a runner, started as execd starts it. What its code sets must not reach the runner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from execd.kernel.runner.builtin import BASH

pytestmark = pytest.mark.timeout(60)


class Ran(NamedTuple):
    """One run: what the runner says of it, and what came on its two outputs meanwhile."""

    status: str
    code: int
    stdout: str
    stderr: str


def ok(stdout: str = "") -> Ran:
    """Return a run that ended well, with nothing on stderr."""
    return Ran("ok", 0, stdout, "")


def failed(code: int, stdout: str = "") -> Ran:
    """Return a run that ended with a status, with nothing on stderr."""
    return Ran("error", code, stdout, "")


class Bash:
    """A runner, and execd's side of it."""

    def __init__(self, directory: Path | str = "/", number: int = 0, **env: str) -> None:
        """*number* is that of the channel in the runner; 0 is any."""
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(20)
        self._said = self._ours.makefile("rb")
        given = theirs.fileno()
        move = f"{number}<&{given} {given}<&-" if number not in (0, given) else ""
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" {move}', "bash", *BASH.command],
            env={"PATH": os.environ["PATH"], "SANDLOT_CHANNEL_FD": str(number or given), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[given],
            start_new_session=True,
        )
        theirs.close()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        assert self.hear() == {"type": "ready", "protocol": 1}
        self.say(op="start", cwd=str(directory), env={})
        self.started = self.hear()
        self._count = 0

    def say(self, **message: Any) -> None:
        """Send as execd does: no spaces, keys in order."""
        self._ours.sendall(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Return its next message."""
        message: dict[str, Any] = json.loads(self._said.readline() or '{"type": "end"}')
        return message

    def start(self, code: str) -> None:
        """Begin a run."""
        self._count += 1
        self.say(op="run", id=self._count, code=code, input=False)

    def end(self) -> Ran:
        """Return a run when it has ended."""
        done = self.hear()
        assert done.get("type") == "done", (done, self._printed())
        assert (done["id"], done["count"]) == (self._count, self._count)
        return Ran(done["status"], done["exit_code"], *self._printed())

    def run(self, code: str) -> Ran:
        """Run code to its end."""
        self.start(code)
        return self.end()

    def interrupt(self) -> None:
        """Interrupt as execd does."""
        self.say(op="interrupt", id=self._count)
        os.killpg(self.process.pid, signal.SIGINT)

    def close(self) -> None:
        """End it."""
        self._said.close()
        self._ours.close()
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=20)

    def _printed(self) -> tuple[str, str]:
        """Return what is in the pipes: all of it was written before the message."""
        found = []
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            found.append((pipe.read() or b"").decode())
        return found[0], found[1]


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Bash]:
    """A runner in a directory of its own."""
    runner = Bash(tmp_path)
    yield runner
    runner.close()


@pytest.mark.parametrize("number", [3, 10, 11, 56, 57, 60, 61, 62, 63, 200])
def test_the_channel_may_have_any_number(number: int) -> None:
    """Also one of those that bash or the runner use themselves: execd's descriptors grow with what it serves."""
    runner = Bash(number=number)
    assert runner.run("echo $((6 * 7))") == ok("42\n")
    runner.close()


def test_the_end_of_the_channel_is_the_end_of_the_shell() -> None:
    """Whatever trap the code has set."""
    runner = Bash()
    assert runner.run("trap 'echo never; sleep 100' EXIT") == ok()
    runner._ours.shutdown(socket.SHUT_RDWR)
    assert runner.process.wait(timeout=20) == 0
    assert runner._printed() == ("", "")
    runner.close()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda _: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a directory"),
    ],
)
def test_a_working_directory_that_cannot_be_is_named(tmp_path: Path, make: Any, problem: str) -> None:
    path = tmp_path / 'a "b" ü\\'
    make(path)
    runner = Bash(path)
    assert runner.started == {"type": "failed", "message": f"the working directory {path} {problem}"}
    runner.close()


# -- the end of a run is not the end of the shell


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 3", 3),
        ("exit", 0),
        ("false; exit", 1),
        ("exit 256", 0),
        ("exit -1", 255),
        ("builtin exit 4", 4),
        ("command exit 4", 4),
        ("f() { local x=local; exit 5; }; f", 5),
        ("f() { local x=local; false; }; set -e; f", 1),
        ("for i in 1 2; do while :; do exit 6; done; done", 6),
        ("eval 'source /dev/stdin <<< \"exit 7\"'", 7),
        ("trap 'exit 8' ERR; false", 8),
        ("trap 'exit 9' USR1; kill -USR1 $$; :", 9),
        ("set -o posix; exit 10", 10),
        ("set -x; { exit 11; } 2>/dev/null", 11),
        ("set -e; false", 1),
        ("set -euo pipefail; false | true", 1),
        ("set -e; (exit 12)", 12),
        ("set -u; : $nope\n", 1),
        ("set -eu\n: $nope\n", 1),
        (": ${nope:?}\n", 1),
    ],
)
def test_what_ends_a_script_ends_the_run(bash: Bash, code: str, status: int) -> None:
    """With its status, and nothing after it is run. The shell goes on with all that it knew."""
    before = (
        "x=global; a=(1 '2 3'); declare -A m=([k]=v); g() { echo g; }; alias ll=echo; set -- p 'q r'; cd /; export E=e"
    )
    assert bash.run(before) == ok()

    ran = bash.run(f"y=set; {code}\necho not reached")

    assert (ran.status, ran.code) == ("error" if status else "ok", status)
    assert ran.stdout == ""
    shown = bash.run('echo "$? $x $y ${a[1]} ${m[k]} $1 $2 $PWD"; g; ll alias; bash -c "echo \\$E"')
    assert shown.stdout == f"{status} global set 2 3 v p q r /\ng\nalias\ne\n"
    bash.run("set +eux +o posix +o pipefail; trap - ERR")
    assert bash.run("echo on >&2; false; echo still") == Ran("ok", 0, "still\n", "on\n")


@pytest.mark.parametrize("code", ["exit 3", "set -e; false", "builtin exit 3"])
def test_jobs_outlive_the_end_of_a_run(bash: Bash, code: str) -> None:
    """After `exit` the shell still knows them as its own."""
    assert bash.run(f"sleep 1000 & pid=$!; {code}").status == "error"
    assert bash.run("kill -0 $pid && kill $pid") == ok()
    if code == "exit 3":
        assert bash.run("wait $pid; echo $?") == ok("143\n")


def test_exit_in_a_subshell_is_as_ever(bash: Bash) -> None:
    code = "(exit 3); echo $?; x=$(exit 4); echo $?; { exit 5; } | cat; echo ${PIPESTATUS[0]}; (false; exit); echo $?"
    assert bash.run(code) == ok("3\n4\n5\n1\n")
    assert bash.run("exit 1 2; echo on") == Ran("error", 1, "", "bash: exit: too many arguments\n")
    assert bash.run("exit what") == Ran("error", 2, "", "bash: exit: what: numeric argument required\n")


def test_a_strict_script_simply_works(bash: Bash) -> None:
    """What models write first of all."""
    assert bash.run("set -euo pipefail") == ok()
    assert bash.run("false; echo no") == failed(1)
    assert bash.run("x=1") == ok()
    assert bash.run("echo $x $-; [[ -o pipefail ]]") == ok("1 ehiuBHs\n")
    assert bash.run("if false; then :; fi; ! true; false || echo or; while false; do :; done") == ok("or\n")
    assert bash.run("true\nnosuch 2>/dev/null\necho no") == failed(127)
    unset = bash.run("echo one\necho $nope\necho two")
    assert unset == Ran("error", 1, "one\n", "bash: nope: unbound variable\n")
    assert bash.run("set +e +u; false; echo $nope on") == ok("on\n")


@pytest.mark.parametrize("end", ["exit 3", "set -e; (exit 3)", "builtin exit 3"])
def test_the_trap_on_exit_runs_when_the_run_exits(bash: Bash, end: str) -> None:
    """Once, with the status; it may change it, and is none any more."""
    assert bash.run("trap 'echo bye $?' EXIT") == ok()
    assert bash.run("echo in between") == ok("in between\n")
    assert bash.run("trap -p EXIT") == ok("trap -- 'echo bye $?' EXIT\n")
    assert bash.run(end) == failed(3, "bye 3\n")
    assert bash.run("set +e; trap -p EXIT; exit 4") == failed(4)
    assert bash.run(f"clean() {{ local rc=$?; echo clean; exit $((rc + 1)); }}; trap clean EXIT; {end}") == failed(
        4, "clean\n"
    )
    assert bash.run("set +e; echo ${rc-none}; trap 'echo sub' EXIT; (trap 'echo inner' EXIT); trap - EXIT; exit") == ok(
        "none\ninner\n"
    )


def test_a_program_that_cannot_be_executed_takes_no_place(bash: Bash) -> None:
    """As in every interactive shell: the run goes on, and so do state and traps."""
    bash.run("x=1; trap 'echo bye' EXIT")
    ran = bash.run("exec ./missing; echo $x $?; exec .; echo $?")
    assert (ran.status, ran.stdout) == ("ok", "1 127\n126\n")
    assert bash.run("exec ./missing")[:2] == ("error", 127)
    assert bash.run("exec ./missing 2>/dev/null; set -e; false") == failed(1, "bye\n")
    assert bash.run("echo $x") == ok("1\n")


def test_other_traps_last_from_run_to_run(bash: Bash) -> None:
    assert bash.run("trap 'echo usr1' USR1; trap 'echo int' INT; trap 'echo err' ERR") == ok()
    assert bash.run("kill -USR1 $$; kill -INT $$; false; :") == ok("usr1\nint\nerr\n")
    assert bash.run("false") == failed(1, "err\n")
    assert bash.run("kill -INT $$; exit 2") == failed(2, "int\n")
    assert bash.run("kill -INT $$; trap - ERR INT; false; :") == ok("int\n")
    assert bash.run("trap -p") == ok("trap -- 'echo usr1' SIGUSR1\n")
    assert bash.run("trap 'echo D' DEBUG") == ok()  # it begins with the next command
    assert bash.run(":; :") == ok("D\nD\n")
    bash.run("trap - DEBUG")
    assert bash.run(":; :") == ok()


def test_traps_are_listed_as_code_has_set_them(bash: Bash) -> None:
    """None of the runner's, also in subshells, and whatever the positional parameters are."""
    assert bash.run("trap; trap -p; (trap); x=$(trap -p EXIT); echo [$x]") == ok("[]\n")
    both = "trap -- 'echo bye' EXIT\ntrap -- 'echo usr1' SIGUSR1\n"
    assert bash.run("set -- a b; trap 'echo bye' EXIT; trap 'echo usr1' USR1; trap; (trap -p)") == ok(both + both)
    assert bash.run('saved=$(trap -p EXIT); trap - EXIT; eval "$saved"; trap -p EXIT; set -- c') == ok(
        both.splitlines(keepends=True)[0]
    )
    assert bash.run("set -e; false") == failed(1, "bye\n")
    assert bash.run("trap; echo $# $1; set --; trap '' EXIT; builtin exit 3") == failed(
        3, "trap -- 'echo usr1' SIGUSR1\n1 c\n"
    )
    assert bash.run("set +e; trap; echo $#; trap nonsense; echo $?") == Ran(
        "ok",
        0,
        "trap -- 'echo usr1' SIGUSR1\n0\n2\n",
        "trap: usage: trap [-lp] [[arg] signal_spec ...]\n",
    )


def test_interruption_leaves_the_shell_as_it_was(bash: Bash, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # What says that it runs is the program: between a fork and its exec, bash loses a SIGINT.
    program = "sh -c 'echo >fifo; exec sleep 1000'"
    for code in (program, f"f() {{ local x=2; {program}; }}; f", f"set -e; {program}"):
        assert bash.run("x=1") == ok()
        bash.start(code)
        assert fifo.read_text() == "\n"  # it runs
        bash.interrupt()
        ran = bash.end()
        assert (ran.status, ran.code, ran.stdout) == ("interrupted", 130, "")
        assert bash.run("echo $x $?") == ok("1 130\n")


def test_the_time_limit_of_a_prompt_ends_neither_runs_nor_the_shell() -> None:
    """TMOUT is for those who type. It is one of `read` all the same."""
    bash = Bash(TMOUT="1")
    assert bash.run("sleep 1.1; echo $TMOUT; exit 3") == failed(3, "1\n")
    for code in ("readonly TMOUT", "builtin exit"):
        with pytest.raises(subprocess.TimeoutExpired):
            bash.process.wait(1.1)
        assert bash.run(f"env | grep TMOUT; {code}") == ok("TMOUT=1\n")
    assert bash.run("read </dev/zero 2>/dev/null; echo $?") == ok("142\n")
    bash.close()


# -- what the runner's own machinery must not share with the code


@pytest.mark.parametrize(
    "code",
    [
        "PS1='> ' PS2='>> ' PS4='+++ ' PS0='ps0'",
        "export PS1='(v) '",
        "readonly PS1='> '",
        "readonly PS0=x PS2=x",
        "PROMPT_COMMAND='echo pc'",
        "PROMPT_COMMAND=('echo pc' 'echo pd')",
        "readonly PROMPT_COMMAND='echo pc'",
        "unset PROMPT_COMMAND PS1 PS2 PS4 IFS PATH HOME",
        "IFS='{}:\"op,'",
        "readonly IFS=x id=1 status=2 cwd=3 line=4 code=5 fields=6 i=7",
        "LC_ALL=C LANG=C",
        "TMOUT=1",
        "readonly TMOUT=1",
        "BASH_COMPAT=42",
        "POSIXLY_CORRECT=1",
        "set -f; set -C; set -k; set -T; set -E; set -b; set -h; set -P; set -n",
        "set -a",
        "set -u",
        "set -t",
        "set -o posix",
        "set +o history; set -o vi",
        "set +B +H",
        "shopt -s extdebug nullglob failglob nocasematch extglob dotglob lastpipe compat44 inherit_errexit xpg_echo",
        "shopt -u expand_aliases sourcepath",
        "trap 'echo D >&2' DEBUG; trap - DEBUG",
        "trap : DEBUG ERR RETURN INT TERM HUP CHLD EXIT",
        "trap '' INT TERM",
        "trap 'exec 9>&1' CHLD",
        "umask 777",
        "ulimit -f 0 -c 0",
        "ulimit -n 100",
        "exec 3>&1 10</dev/null 11</dev/null 12</dev/null 62</dev/null 60</dev/null 200</dev/null",
        "exec 10>&- 11>&- 60>&- 62>&-",
        "exec 0<&-",
        "exec </dev/zero",
        "mkdir gone; cd gone; rmdir ../gone",
        "sleep 0 & wait; sleep 0 & sleep 0.01",
        "sleep 0 & disown; (sleep 0 &)",
        "coproc true",
        ": <(true) >(true)",
        "return 3; break; continue; logout; suspend",
        "exec nosuchprogram",
        "stty sane",
        "alias printf=no read=no eval=no builtin=no trap=no exit=no set=no exec=no",
        "unalias -a",
        "hash -r; enable -n read printf",
        "set -- -n a b",
        "unset -v __sandlot_left BASH_REMATCH; unset BASH_ALIASES",
        "[[ abc =~ b ]]",
        "declare -n ref=x",
        "LINENO=77",
        "echo $'\\a'; printf 'no newline'",
        "if", "echo '", 'echo "', "cat <<EOF\nx", "echo a \\", ")", "}", "a |", "`", "f() {", "case x in", "# no", ";;",
    ],
)  # fmt: skip
def test_nothing_of_the_code_shows_in_later_runs(bash: Bash, code: str) -> None:
    """Whatever state the code leaves behind."""
    assert bash.run("keep=me") == ok()
    bash.run(f"{{ {code}\n}} >/dev/null 2>&1" if code.endswith("]]") else code)

    for _ in range(2):
        assert bash.run("command -p printf 'a%s\\n' $keep; command -p printf 'b\\n' >&2") == Ran(
            "ok", 0, "ame\n", "b\n"
        )
    ran = bash.run("\\exit 3")
    assert (ran.status, ran.code, ran.stderr) == ("error", 3, "")
    assert bash.run("command -p printf '%s\\n' $?$keep") == ok("3me\n")


NAMES = (  # noqa: SIM905
    "printf read eval command set cd exec local return declare unset test echo alias unalias kill shopt export readonly"
    " source true false builtin [ . : break continue mapfile compgen let type wait jobs"
).split()


@pytest.mark.parametrize("names", [*NAMES, " ".join(NAMES)])
def test_code_may_define_functions_of_any_name(bash: Bash, tmp_path: Path, names: str) -> None:
    """They do not reach the runner, whose commands would be the user's."""
    definitions = "; ".join(f"function {name} {{ X=called; }}" for name in names.split())
    assert bash.run(definitions) == ok()
    assert bash.run("/bin/echo a$X") == ok("a\n")
    assert bash.run("exit 3") == failed(3)
    os.mkfifo(tmp_path / "fifo")
    bash.start("/bin/sh -c 'echo >fifo; exec sleep 1000'")
    assert (tmp_path / "fifo").read_text() == "\n"
    bash.interrupt()
    assert bash.end().status == "interrupted"
    assert bash.run("/bin/echo b$X") == ok("b\n")


def test_code_may_define_trap(bash: Bash) -> None:
    assert bash.run("trap() { echo mine; }; trap x EXIT") == ok("mine\n")
    assert bash.run("trap x EXIT; exit 3") == failed(3, "mine\n")


def test_tracing_shows_the_code_alone(bash: Bash) -> None:
    """bash shows the level of `eval` by repeating the first character of PS4."""
    assert bash.run("set -x") == ok()
    assert bash.run("echo a").stderr.lstrip("+") == " echo a\n"
    assert bash.run("exit 3").stderr.lstrip("+") == " exit 3\n"
    assert bash.run("set +x").stderr.lstrip("+") == " set +x\n"
    assert bash.run("set -v") == ok()
    assert bash.run("echo a\necho b") == Ran("ok", 0, "a\nb\n", "echo a\necho b\n")
    assert bash.run("set +v; false").stderr == "set +v; false\n"
    assert bash.run("echo a") == ok("a\n")


def test_a_virtual_environment_leaves_nothing_on_stderr(bash: Bash, tmp_path: Path) -> None:
    """`activate` changes PS1, which the code may read, and nobody is shown."""
    activate = tmp_path / "activate"
    activate.write_text('_OLD_PS1="${PS1:-}"; PS1="(v) ${PS1:-}"; export PS1; deactivate() { PS1=$_OLD_PS1; }')
    assert bash.run(f"source {activate}") == ok()
    assert bash.run("echo x") == ok("x\n")
    assert bash.run('echo "${PS1:0:4}"') == ok("(v) \n")
    assert bash.run("deactivate") == ok()
    assert bash.run('echo "$PS1"') == ok("\\s-\\v\\$ \n")


def test_variables_of_the_runner_are_never_exported(bash: Bash) -> None:
    """With `set -a`, programs would get the code itself, and nothing would start any more."""
    assert bash.run("set -a") == ok()
    for end in ("", "exit 3", "set -e; false", "trap 'echo x >/dev/null' EXIT ERR", "false"):
        bash.run(f"x=1; {end}")
        assert "sandlot" not in bash.run("set +e; env").stdout.lower()
    assert bash.run("#" + "x" * 500_000 + "\n/bin/true") == ok()


def test_no_program_inherits_the_channel(bash: Bash) -> None:
    listing = "ls /proc/self/fd | xargs"
    assert bash.run(listing) == ok("0 1 2 3\n")
    bash.run("set -eu\n: $nope")
    assert bash.run(listing) == ok("0 1 2 3\n")
    assert bash.run("readlink /proc/self/fd/0") == ok("/dev/null\n")


def test_descriptors_of_the_code_last(bash: Bash, tmp_path: Path) -> None:
    assert bash.run("exec 3>three 10>ten 11>eleven {fd}>any 200>lock") == ok()
    assert bash.run("echo a >&3; echo b >&10; echo c >&11; echo d >&$fd; exit 3") == failed(3)
    assert bash.run("set -e; echo e >&11; false") == failed(1)
    assert bash.run("echo f >&11; exec 1>out 2>err; echo g; echo h >&2") == ok()
    assert bash.run("echo i; exit 3") == failed(3)
    assert bash.run("echo j >&2; false") == failed(1)
    assert bash.run("echo k; exec 1>&- 2>&-") == ok()
    assert bash.run("x=1; exit 4") == failed(4)
    files = {name: (tmp_path / name).read_text() for name in ("three", "ten", "eleven", "any", "out", "err")}
    assert files == {
        "three": "a\n",
        "ten": "b\n",
        "eleven": "c\ne\nf\n",
        "any": "d\n",
        "out": "g\ni\nk\n",
        "err": "h\nj\n",
    }


def test_line_numbers_begin_anew(bash: Bash) -> None:
    for setting in (":", "set -u", "set -e", "trap : ERR", "false"):
        bash.run(setting)
        assert bash.run("echo $LINENO\n\necho $LINENO") == ok("1\n3\n")
    bash.run("set +eu; trap - ERR")
    assert bash.run("nosuch=1\n)").stderr.splitlines()[0].endswith("line 2: syntax error near unexpected token `)'")


def test_a_coprocess_lasts(bash: Bash) -> None:
    """Its descriptors are none that the runner puts to use."""
    assert bash.run("coproc cat") == ok()
    assert bash.run("echo a >&${COPROC[1]}; read x <&${COPROC[0]}; echo $x; cat <(echo p)") == ok("a\np\n")


def test_attributes_survive_the_end_of_the_shell(bash: Bash) -> None:
    code = """declare -i n=3; declare -r r=ro; declare -a s=([3]=x [5]='y z'); declare -n ref=n; export e=$'a\\nb'
declare -u up=x; umask 027; shopt -s extglob; f() { [[ $1 == @(a|b) ]]; }; export -f f; complete -W 'a b' prog; set -f
trap 'echo usr1' USR1"""
    assert bash.run(code) == ok()
    assert bash.run("builtin exit 7") == failed(7)
    shown = """n+=1; up=abc; echo $n $ref $up ${!s[@]} "${s[5]}" $(umask); echo "$e"
f a && bash -c 'f b && echo exported'; complete -p prog; echo *; kill -USR1 $$; r=2"""
    ran = bash.run(shown)
    assert ran.stdout == "4 4 ABC 3 5 y z 0027\na\nb\nexported\ncomplete -W 'a b' prog\n*\nusr1\n"
    assert ran.stderr == "bash: r: readonly variable\n"


def test_long_code_runs(bash: Bash, tmp_path: Path) -> None:
    """In time that grows with its length, whatever it holds."""
    text = "it's é\n" * 40_000
    assert bash.run(f"cat <<'EOF' >file\n{text}EOF\n#{'x' * 100_000}") == ok()
    assert (tmp_path / "file").read_text() == text
