"""Manifests: what they may say, and what whoever wrote a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from execd.errors import ExecdError
from execd.kernel.runner.manifest import Languages, Manifest, load

SHIPPED = Path(__file__).parents[5] / "images" / "kernels"

GOOD = """
language = "Toy"
aliases = ["toy3", "PLAYTHING"]
command = ["toy", "--now"]
"""


def problem_of(languages: Languages, name: str) -> str:
    with pytest.raises(ExecdError) as caught:
        languages.find(name)
    assert caught.value.code == "context.unsupported"
    return caught.value.message


def test_a_manifest_is_found_by_name_and_alias_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(GOOD)

    languages = load(str(tmp_path))

    toy = Manifest(language="toy", command=("toy", "--now"), aliases=("toy3", "plaything"))
    assert languages.manifests == [toy]
    assert all(languages.find(name) == toy for name in ("toy", "TOY", "toy3", "Plaything"))


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(
        GOOD
        + """
        zygote = true
        eager = true
        spare = true
        preload = ["one", "two.three"]
        interrupt = "message"
        env = { TOY_MODE = "fast" }
        """
    )

    toy = load(str(tmp_path)).find("toy")

    assert (toy.zygote, toy.eager, toy.spare, toy.interrupt) == (True, True, True, "message")
    assert (toy.preload, toy.env) == (("one", "two.three"), {"TOY_MODE": "fast"})


def test_the_manifests_that_we_ship_are_right() -> None:
    languages = load(str(SHIPPED))

    assert languages.problems == {}
    assert languages.find("python3").language == "python"


def test_an_unknown_language_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    assert problem_of(load(str(tmp_path)), "cobol") == "this image does not support 'cobol': it declares no language"
    (tmp_path / "toy.toml").write_text(GOOD)
    (tmp_path / "ada.toml").write_text('language = "ada"\ncommand = ["gnat"]')

    assert problem_of(load(str(tmp_path)), "cobol") == "this image does not support 'cobol': it has ada, toy"


def test_a_missing_directory_declares_nothing(tmp_path: Path) -> None:
    assert load(str(tmp_path / "nowhere")).manifests == []


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("README.md", "toy.toml.bak", ".toy.toml.swp", ".hidden.toml"):
        (tmp_path / name).write_text("no TOML at all")

    assert load(str(tmp_path)).problems == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('language = "toy"', "missing required field `command`"),
        ('language = "toy"\ncommand = "toy"', "command: expected `array`, got `str`"),
        ('language = "toy"\ncommand = ["toy", 1]', "command[1]: expected `str`, got `int`"),
        ('language = "toy"\ncommand = []', "command: names no program"),
        ('language = "toy"\ncommand = ["a\\u0000b"]', "command: contains a NUL byte"),
        ('language = "toy"\ncommand = ["toy"]\nzygot = true', "unknown field `zygot`"),
        ('language = "toy"\ncommand = ["toy"]\nzygote = "yes"', "zygote: expected `bool`, got `str`"),
        ('language = "toy"\ncommand = ["toy"]\nenv = { A = 1 }', "env[...]: expected `str`, got `int`"),
        ('language = "toy"\ncommand = ["toy"]\nenv = { "A=B" = "1" }', "env: 'A=B' is not a variable"),
        ('language = "toy"\ncommand = ["toy"]\npreload = ["a b"]', "preload: 'a b' is empty or contains a space"),
        (
            'language = "toy"\ncommand = ["toy"]\ninterrupt = "no"',
            "interrupt: expected one of signal, message, got 'no'",
        ),
        ('language = "toy"\ncommand = ["toy"]\neager = true', "eager: needs `zygote` or `spare`"),
        ('language = "toy"\ncommand = ["toy"]\naliases = ["a toy"]', "aliases: 'a toy' is not a name"),
        ('language = "toy"\ncommand = ["toy"', "not TOML: "),
        ('language = "toy"\ncommand = ["toy"\n\n\nx', "(at line 5"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_key_and_hurts_no_other(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "good.toml").write_text('language = "good"\ncommand = ["good"]')
    (tmp_path / "toy.toml").write_text(content)

    languages = load(str(tmp_path))

    problem = problem_of(languages, "toy")
    assert str(tmp_path / "toy.toml") in problem
    assert expected in problem
    assert [one.language for one in languages.manifests] == ["good"]


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("zygot = true", ":4: zygot: object contains unknown field"),
        ("'zygot' = true", ":4: zygot: object contains"),
        ('"zygot" = true', ":4: zygot: object contains"),
        ("env.A = 1", ":4: env[...]: expected `str`"),
        ("[env]\nA = 1", ":4: env[...]: expected `str`"),
        ("[extra.sub]\na = 1", ":4: extra: object contains unknown field"),
        ("[[extra]]\na = 1", ":4: extra: object contains unknown field"),
        ("# zygote = 1\n  zygote = 1", ":5: zygote: expected `bool`"),
        ("preload = [\n  'a',\n", "at line 6, the last one"),
        ("check = \n", "(at line 4, column 9)"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, more: str, place: str) -> None:
    (tmp_path / "toy.toml").write_text(f'language = "toy"\ncommand = ["toy"]\n\n{more}\n')

    assert place in problem_of(load(str(tmp_path)), "toy")


def test_a_manifest_that_is_no_text_or_too_large_or_unreadable_is_refused_by_its_file_name(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"# bytes\nlanguage = '\xff'")
    (tmp_path / "large.toml").write_text("#" * 70_000)
    (tmp_path / "folder.toml").mkdir()

    languages = load(str(tmp_path))

    assert "not UTF-8: invalid start byte at byte 20 (at line 2)" in problem_of(languages, "bytes")
    assert "larger than" in problem_of(languages, "large")
    assert "cannot be read: Is a directory" in problem_of(languages, "folder")


@pytest.mark.parametrize("words", ['language = "toy"', 'language = "other"\naliases = ["toy3"]'])
def test_a_name_belongs_to_the_first_file_that_has_it(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(f'{words}\ncommand = ["other"]')

    languages = load(str(tmp_path))

    assert languages.find("toy3").command == ("toy", "--now")
    assert any("a.toml already declares 'toy" in problem for problem in languages.problems.values())


def test_a_language_that_comes_later_says_so(tmp_path: Path) -> None:
    """By all of its names; it needs no command, and is none of the languages."""
    (tmp_path / "toy.toml").write_text('language = "toy"\naliases = ["tiny"]\nunavailable = "it is being built"')

    languages = load(str(tmp_path))

    assert languages.manifests == []
    for name in ("toy", "tiny"):
        assert problem_of(languages, name) == f"this image cannot run {name}: it is being built"
