"""Versions that an image declares, and what a variable of the sandbox chooses among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from execd.launch.environment import Environment
from execd.launch.versions import Choice, Versions, load

PYTHON = """
variable = "PYTHON_VERSION"
languages = ["python"]
default = "3.13"

[versions."3.13"]

[versions."3.11"]
path = "{path}"
env = {{ WHICH = "old" }}
commands = {{ python = ["python3.11", "start.py"] }}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/python.toml").write_text(PYTHON.format(path=tmp_path / "old"))
    return tmp_path / "versions"


@pytest.fixture
def declared(directory: Path) -> Versions:
    versions = load(str(directory))
    assert versions.problems == ()
    return versions


def test_without_a_variable_the_default_changes_nothing(declared: Versions) -> None:
    assert declared.choose({}) == Choice(names={"python": "3.13"})
    assert (
        declared.choose({"PYTHON_VERSION": "3.13"}) == declared.choose({"PYTHON_VERSION": " "}) == declared.choose({})
    )


@pytest.mark.parametrize("asked", ["3.11", "3.11.9", "v3.11", "python3.11", "cpython-3.11", " 3.11 "])
def test_a_variable_chooses(declared: Versions, tmp_path: Path, asked: str) -> None:
    choice = declared.choose({"PYTHON_VERSION": asked})
    assert choice.path == (str(tmp_path / "old"),)
    assert choice.env == {"WHICH": "old"}
    assert choice.commands == {"python": ("python3.11", "start.py")}
    assert choice.names == {"python": "3.11"}
    assert choice.notices == ()


def test_what_fits_several_versions_is_the_default(declared: Versions) -> None:
    assert declared.choose({"PYTHON_VERSION": "3"}) == declared.choose({})


@pytest.mark.parametrize("asked", ["3.1", "3.12", "2.7", "latest", "3.110", "\0\n"])
def test_what_is_not_there_falls_back_to_the_default_and_says_so(declared: Versions, asked: str) -> None:
    choice = declared.choose({"PYTHON_VERSION": asked})
    assert choice.names == {"python": "3.13"}
    assert choice.notices == (f"PYTHON_VERSION={asked.strip()!r}: this image has 3.13, 3.11; 3.13 is used",)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('default = "3.13"', 'default = "3.12"', "toml:4: default: '3.12' is not one of the versions: 3.13, 3.11"),
        ("variable", "varable", "python.toml:2: varable: object contains unknown field"),
        ('path = "', 'path = "/nowhere', "3.11, /nowhere"),
        ('path = "', "path = 3 #", "python.toml"),
        ("{ python =", "{ perl =", "3.11 has a command for perl, not one of `languages`"),
        ('["python3.11", "start.py"]', "[]", "a command of 3.11 names no program"),
        ("WHICH =", '"A=B" =', "3.11 sets 'A=B': the name is bad"),
        ('"PYTHON_VERSION"', '"A=B"', "'A=B' cannot be the name of a variable"),
        ("[versions", "[[versions", "python.toml"),
    ],
)
def test_a_wrong_file_is_left_out_and_its_problem_told(directory: Path, old: str, new: str, problem: str) -> None:
    path = directory / "python.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    versions = load(str(directory))
    assert versions.declarations == ()
    assert len(versions.problems) == 1
    assert problem in versions.problems[0]
    assert versions.choose({"PYTHON_VERSION": "3.11"}) == Choice()


def test_two_files_cannot_declare_the_same(directory: Path) -> None:
    text = (directory / "python.toml").read_text()
    (directory / "q.toml").write_text(text)
    (directory / "r.toml").write_text(text.replace("PYTHON_VERSION", "OTHER"))
    assert load(str(directory)).problems == (
        f"{directory}/q.toml:2: variable: another file already declares PYTHON_VERSION",
        f"{directory}/r.toml:3: languages: another file already declares python",
    )


def test_an_image_without_versions_has_none(tmp_path: Path) -> None:
    versions = load(str(tmp_path / "missing"))
    assert (versions.declarations, versions.problems) == ((), ())
    assert versions.choose({"PYTHON_VERSION": "3.11"}) == Choice()
    assert versions.of("python") is None


def test_the_sandbox_has_what_its_claim_chooses(declared: Versions, tmp_path: Path) -> None:
    """The version's directory comes first in PATH; a variable that the claim sets wins over the version's."""
    env = Environment({"PATH": "/bin", "WHICH": "image"}, "/", choose=declared.choose)
    assert (env.prepare().env["PATH"], env.prepare().env["WHICH"]) == ("/bin", "image")

    env.bind({"PYTHON_VERSION": "3.11"})
    assert (env.prepare().env["PATH"], env.prepare().env["WHICH"]) == (f"{tmp_path}/old:/bin", "old")

    env.bind({"PYTHON_VERSION": "3.11", "PATH": "/mine", "WHICH": "mine"})
    assert (env.prepare().env["PATH"], env.prepare().env["WHICH"]) == (f"{tmp_path}/old:/mine", "mine")

    env.unbind()
    assert env.prepare().env["PATH"] == "/bin"


def test_an_image_may_choose_by_its_own_variables(declared: Versions) -> None:
    env = Environment({"PYTHON_VERSION": "3.11"}, "/", choose=declared.choose)
    assert env.choice.names == {"python": "3.11"}
    env.bind({"PYTHON_VERSION": "3.13"})
    assert env.choice.names == {"python": "3.13"}


def test_a_notice_is_told_once(declared: Versions) -> None:
    env = Environment({}, "/", choose=declared.choose)
    assert env.take_notice() == ""
    env.bind({"PYTHON_VERSION": "2.7"})
    assert "2.7" in env.take_notice()
    assert env.take_notice() == ""


def test_followers_hear_of_each_claim(declared: Versions) -> None:
    env = Environment({}, "/", choose=declared.choose)
    heard: list[str] = []
    env.follow(lambda: heard.append(env.choice.names["python"]))
    env.bind({"PYTHON_VERSION": "3.11"})
    env.unbind()
    assert heard == ["3.11", "3.13"]
