"""The battery of `sandlot attack`: its catalogue, how verdicts are read, its report, and the server's readiness."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from controlplane.attack import catalogue
from controlplane.attack.attacks import agent, network, residue, secrets, services
from controlplane.attack.attacks.resources import limits, output, trees
from controlplane.attack.client.api import Memory
from controlplane.attack.client.model import Attack, Result
from controlplane.attack.client.outcome import Outcome, Verdict, broken, held, not_applicable, unclear
from controlplane.attack.client.program import PRELUDE, command, given, judge
from controlplane.attack.client.target import Ran, read_events
from controlplane.attack.report import Gate, Report, lines, make_report, record
from controlplane.cli.main import main

ATTACK = Attack(id="host.x", tries="Try it", outcome="It fails", cure="mend it", program="held()")
ADVICE = msgspec.structs.replace(ATTACK, id="host.y", must_pass=False)
KNOWN = msgspec.structs.replace(ATTACK, id="network.z", must_pass=False, known="see the docs")


def run(source: str) -> Outcome:
    """Run a program of an attack here, by this interpreter."""
    argv, mark = command(source)
    done = subprocess.run([sys.executable, *argv[1:]], capture_output=True, text=True, timeout=30, check=False)
    return judge(done.stdout, mark, done.stderr)


def report(*outcomes: tuple[Attack, Outcome], release: str = "1") -> Report:
    results = [Result(attack, outcome, 0.1) for attack, outcome in outcomes]
    return make_report(results, release=release, server="http://x", image="i", began=datetime.now(UTC))


# -- the catalogue


def test_every_attack_is_whole() -> None:
    """Ids are unique, and an attack is either a program or an act of a client."""
    ids = [attack.id for attack in catalogue.ATTACKS]
    assert len(ids) == len(set(ids)) >= 95
    for attack in catalogue.ATTACKS:
        assert attack.category in catalogue.CATEGORIES
        assert bool(attack.program) != (attack.act is not None), attack.id
        assert attack.tries[0].isupper(), attack.id
        assert attack.outcome, attack.id
        assert attack.cure, attack.id
        assert not attack.tries.endswith("."), attack.id
        assert "|" not in attack.tries + attack.outcome, f"{attack.id}: a table holds it"
        assert not (attack.known and attack.must_pass), attack.id


@pytest.mark.parametrize("attack", [each for each in catalogue.ATTACKS if each.program], ids=lambda attack: attack.id)
def test_every_program_is_python(attack: Attack) -> None:
    """For the agent's interpreter, which is 3.11; and it can say that the attack succeeded."""
    ast.parse(PRELUDE + attack.program, feature_version=(3, 11))
    assert "broken" in attack.program or "held_unless" in attack.program


@pytest.mark.parametrize("module", [agent, limits, network, output, residue, secrets, services, trees])
def test_the_programs_of_acts_are_python(module: ModuleType) -> None:
    """Every text of a module that has lines is a program."""
    sources = [value for value in vars(module).values() if isinstance(value, str) and "\n" in value]
    programs = [source for source in sources if source != module.__doc__]
    assert programs
    for source in programs:
        ast.parse(PRELUDE + source, feature_version=(3, 11))


def test_attacks_are_chosen_by_id_and_category() -> None:
    """In the order of the catalogue; what is in neither is refused."""
    chosen = [attack.id for attack in catalogue.choose(["residue", "host.mounts"])]
    assert chosen[0] == "host.mounts"
    assert {name.partition(".")[0] for name in chosen} == {"host", "residue"}
    with pytest.raises(KeyError, match=r"host\.nothing"):
        catalogue.choose(["host.nothing"])


# -- verdicts


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("held()", held()),
        ("held('a limit')", held("a limit")),
        ("broken('a door is open')", broken("a door is open")),
        ("not_applicable('no /dev')", not_applicable("no /dev")),
        ("print('noise'); print('more', end=''); broken('x')", broken("x")),
        ("held_unless(['a', 'b'])", broken("a, b")),
        ("held_unless(n for n in ())", held()),
        (given("held(word + str(number))", word="a\n", number=2), held("a\n2")),
    ],
)
def test_the_verdict_of_a_program(source: str, outcome: Outcome) -> None:
    """Whatever else it prints."""
    assert run(source) == outcome


@pytest.mark.parametrize("source", ["1 / 0", "pass", "os._exit(0)", "import no_such_module", "print('held')"])
def test_a_program_without_a_verdict_is_never_held(source: str) -> None:
    """What did not run proves nothing."""
    assert run(source).verdict is Verdict.UNCLEAR


def test_nothing_else_can_forge_a_verdict() -> None:
    """The mark is new each time, and only a line that begins with it counts."""
    (*_, first), (*_, second) = command("held()")[0], command("held()")[0]
    assert first != second
    assert judge('0123456789abcdef{"verdict":"held","text":""}', "fedcba9876543210").verdict is Verdict.UNCLEAR
    assert judge('aa{"verdict":"fine","text":""}', "aa").verdict is Verdict.UNCLEAR


def test_the_events_of_a_command() -> None:
    """Output of both streams; how it ended."""
    ended = b'{"type":"stdout","text":"a"}\n\n{"type":"ping"}\n\n{"type":"stderr","text":"b"}\n\n'
    assert read_events(ended + b'{"type":"execution_complete","execution_time":1}\n\n') == Ran(0, "a\nb")
    failed = b'data: {"type":"error","error":{"ename":"E","evalue":"137"},"receipt":{"cause":"oom"}}\n\n'
    assert read_events(failed) == Ran(137, "", "oom E 137")
    assert read_events(ended) == Ran(-1, "a\nb", "the stream ended early")


def test_the_growth_of_a_server() -> None:
    """Also of one that was larger at another time, and gave it back or not; none where it does not tell."""
    assert Memory(150, 900).growth_since(Memory(100, 900)) == 50
    assert Memory(100, 300).growth_since(Memory(100, 200)) == 100
    assert Memory(500, 500).growth_since(Memory(0, 0)) == 0
    assert Memory(0, 0).growth_since(Memory(500, 500)) == 0


# -- the report


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([(ATTACK, held())], 0),
        ([(ATTACK, not_applicable("no"))], 0),
        ([(KNOWN, broken("reached"))], 0),
        ([(ADVICE, broken("seen"))], 1),
        ([(ATTACK, broken("seen")), (ADVICE, unclear("died"))], 1),
        ([(ATTACK, unclear("died"))], 2),
    ],
)
def test_the_exit_status(outcomes: list[tuple[Attack, Outcome]], status: int) -> None:
    """1: something is broken that nobody expects; 2: an attack did not run to its end."""
    assert report(*outcomes).exit_status == status


def test_the_scorecard_has_the_cure_of_each_failure() -> None:
    """And the reason where there is no verdict; nothing but one line for what was held."""
    assert len(list(lines(Result(ATTACK, held("why"), 1.0)))) == 1
    shown = "\n".join(lines(Result(KNOWN, broken("a door"), 1.0)))
    assert "BROKEN" in shown
    assert "a door" in shown
    assert "known: see the docs" in shown
    assert "→ mend it" in shown
    assert "no python" in "\n".join(lines(Result(ATTACK, not_applicable("no python"), 1.0)))


def test_the_server_is_ready_by_the_recorded_report_alone(tmp_path: Path) -> None:
    """None, one of another release, one that cannot be read and one with a failure each say what to do."""
    gate = Gate(tmp_path, "1")
    assert "run `sandlot attack --record`" in gate.why_not_ready()
    record(report((ATTACK, broken("x")), (ADVICE, broken("y"))), tmp_path)
    assert gate.why_not_ready() == "attacks that must be held were not: host.x; `sandlot attack` tells the cure"
    record(report((ATTACK, held()), (ADVICE, broken("y"))), tmp_path)
    assert gate.why_not_ready() == ""
    record(
        report(
            (ATTACK, unclear("it died of something")),
        ),
        tmp_path,
    )
    assert "host.x" in gate.why_not_ready()
    record(report((ATTACK, held()), release="0.9"), tmp_path)
    assert "release 0.9" in gate.why_not_ready()
    (tmp_path / "attack.json").write_text("{")
    assert "cannot be read" in gate.why_not_ready()


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    """JSON, with the fields that the page on security names."""
    made = report((ATTACK, broken("x")))
    path = record(made, tmp_path)
    assert msgspec.json.decode(path.read_bytes(), type=Report) == made
    read = msgspec.json.decode(path.read_bytes())
    assert (read["schema"], read["attacks"][0]["verdict"]) == (1, "broken")


# -- the command


def test_the_list_of_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no server."""
    assert main(["attack", "--list", "--only", "secrets"]) == 0
    shown = capsys.readouterr().out
    assert "secrets.inside" in shown
    assert "host." not in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "hosts"], "no attack and no category 'hosts'"),
        (["--record", "--only", "host"], "--record needs all attacks"),
        (["--server", "http://127.0.0.1:1", "--api-key", "x" * 16], "does not answer"),
    ],
)
def test_what_cannot_be_attacked(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what to do."""
    assert main(["attack", "--api-key", "x" * 16, *flags]) == 2
    assert message in capsys.readouterr().err
