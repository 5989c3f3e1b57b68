"""Translated pages follow their originals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import translations
from tests.support.pages import TRANSLATIONS
from tests.support.translations import code, confirm, header, is_current, left_out, messages, original_text


def test_translations_are_current() -> None:
    """All that have fallen behind, in one message."""
    assert TRANSLATIONS
    behind = [f"{page.name}: {header(page).original} has changed" for page in TRANSLATIONS if not is_current(page)]
    assert behind == [], "translate what has changed, then run `python -m tests.support.translations docs/zh/PAGE.md`"


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_code_is_not_translated(page: Path) -> None:
    """The blocks of a translation are those of its original, which a test runs; so are messages that are quoted."""
    assert code(page.read_text()) == code(original_text(page))
    assert messages(page.read_text()) == messages(original_text(page))


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_nothing_is_left_out(page: Path) -> None:
    """A translation has every heading, paragraph, item and table row of its original, even if its digest is current."""
    assert left_out(page) == []


def test_what_is_left_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item, a row or a paragraph that is missing; a page of a part may have a paragraph more."""
    monkeypatch.setattr(translations, "ROOT", tmp_path)
    original, page = tmp_path / "page.md", tmp_path / "zh.md"
    original.write_text("# One\ntwo\nthree\n\n- four\n  five\n- six\n\n| a |\n|---|\n| b |\n\n## Rest\nfour\n")
    whole = "# 一\n二三\n\n- 四五\n- 六\n\n| 甲 |\n|---|\n| 乙 |\n"
    page.write_text('<!-- follows page.md before "## Rest": -->\n' + whole + "\n七\n")
    assert left_out(page) == []
    for missing, block in (("- 六\n", "item"), ("| 乙 |\n", "row"), ("二三\n", "paragraph")):
        page.write_text('<!-- follows page.md before "## Rest": -->\n' + whole.replace(missing, ""))
        assert [line.partition(",")[0] for line in left_out(page)] == [f"{block} became nothing"]
    page.write_text("<!-- follows page.md: -->\n" + whole + "\n七\n\n## 八\n九\n")
    assert left_out(page) == ["nothing became paragraph, as block 8"]


def test_a_translation_that_has_fallen_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word more in the original is noticed; another break of lines is not; nor what comes after the part."""
    monkeypatch.setattr(translations, "ROOT", tmp_path)
    original, page = tmp_path / "page.md", tmp_path / "zh.md"
    original.write_text("# One\ntwo three\n\n## Rest\nfour\n")
    page.write_text('<!-- follows page.md before "## Rest":  -->\n# 一\n')
    assert not is_current(page)
    confirm(page)
    assert is_current(page)
    original.write_text("# One\ntwo\nthree\n\n## Rest\nfive\n")
    assert is_current(page)
    original.write_text("# One\ntwo three more\n\n## Rest\n")
    assert not is_current(page)


def test_a_page_that_names_no_original(tmp_path: Path) -> None:
    """Nobody could tell whether it has fallen behind."""
    page = tmp_path / "zh.md"
    page.write_text("# 一\n")
    with pytest.raises(ValueError, match="the first line must be a comment"):
        header(page)
