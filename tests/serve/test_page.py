"""The page at ``/`` in both languages: its texts, and what a browser shows."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from downloader.markup import read_words
from downloader.serve.page import render_page

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = read_words("downloader.serve")
URL = "http://hub.example:8765"


def test_both_languages_have_every_text() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert all(text for language in WORDS.values() for text in language.values())


def test_the_page_is_readable_without_its_script() -> None:
    page = render_page([], {}, URL)
    assert WORDS["en"]["headline"] in page
    assert f"export HF_ENDPOINT={URL}" in page
    assert set(re.findall(r'data-w="(\w+)"', page)) <= WORDS["en"].keys()


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, opened by a reader of the language that the test names."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        executable = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        opened = browser.new_context(locale=request.param).new_page()
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("console", lambda message: errors.append(message.text))

        def answer(route: Route) -> None:
            route.fulfill(body=render_page([], {}, URL), content_type="text/html; charset=utf-8")

        opened.route(f"{URL}/", answer)
        opened.goto(f"{URL}/")
        yield opened
        browser.close()
    assert errors == []


@pytest.mark.browser
@pytest.mark.parametrize(("page", "language"), [("zh-CN", "zh"), ("de", "en")], indirect=["page"])
def test_the_language_is_the_readers_and_can_be_switched(page: Page, language: str) -> None:
    other = {"zh": "en", "en": "zh"}[language]
    for shown in (language, other, language):
        text = WORDS[shown]
        expect(page.get_by_role("heading", level=1)).to_have_text(text["headline"])
        assert page.title() == text["title"]
        assert page.evaluate("document.documentElement.lang") == {"zh": "zh-CN"}.get(shown, shown)
        for item in page.locator("[data-w]").all():
            assert item.text_content() == text[str(item.get_attribute("data-w"))]
        page.get_by_role("button", name=text["language_label"]).click()
