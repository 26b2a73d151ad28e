"""The catalogue's page in a real browser: everything that a reader does there."""

from __future__ import annotations

import json
import re
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from downloader.farm.catalog.catalog import Catalog, Entry
from downloader.farm.catalog.page import SOURCE_URL, render_page, words
from downloader.farm.catalog.published import Published
from downloader.farm.models import Model, parse_models
from downloader.image import ImageLabels
from downloader.oci.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.browser

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
GHCR, HUB = "ghcr.io/me/hf-models", "docker.io/me/hf-models"
MODELS = f"""\
defaults.registries = ["{GHCR}", "{HUB}"]
[[model]]
tag = "middle"
repo = "Salesforce/codet5-small"
[[model]]
tag = "largest"
repo = "bigcode/starcoder"
[[model]]
tag = "absent"
repo = "org/absent"
[[model]]
tag = "smallest-with-a-very-long-tag-that-goes-on-and-on-{"x" * 60}"
repo = "org/with-a-long-name-as-some-have-{"y" * 60}"
type = "dataset"
include = ["*.json"]
"""
# size, parameters, library, license, commit's date, is behind, registries
FACTS: dict[str, tuple[Any, ...]] = {
    "middle": (242e6, 60e6, "transformers", "Apache-2.0", "2024-01-09", False, (GHCR, HUB)),
    "largest": (63.8e9, 15.5e9, "gguf", "LicenseRef-openrail", "2022-08-21", True, (GHCR,)),
    "smallest": (999, None, None, None, "2025-01-01", None, (GHCR, HUB)),
}
DIGEST = digest_of(b"")
ORDER = ["middle", "largest", "absent", "smallest"]


def make_entry(model: Model) -> Entry:
    facts = FACTS.get(model.tag.split("-", maxsplit=1)[0])
    if facts is None:
        return Entry(model)
    size, parameters, library, license_, date, behind, registries = facts
    labels = ImageLabels(model.repo, "ab" * 20, "main", "-" in model.tag, behind is True, False)
    image = Published(
        tag=model.tag,
        digest=DIGEST,
        labels=labels,
        license=license_,
        files=9,
        size_bytes=int(size),
        layers=3,
        layer_bytes=int(size),
        committed_at=f"{date}T00:00:00Z",
        description="What its card says" if library else None,
        task="text-generation" if library else None,
        parameters=parameters and int(parameters),
        library=library,
        has_base=True,
    )
    return Entry(model, image, registries, behind)


@contextmanager
def served(directory: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = parse_models(MODELS)
    entries = tuple(make_entry(model) for model in models)
    document = Catalog(entries, models.registries, "2026-01-02T03:04:05Z").to_json()
    directory = tmp_path_factory.mktemp("site")
    document["models"][0]["published_at"] = "2026-01-01T00:00:00Z"
    (directory / "index.html").write_text(render_page(document), encoding="utf-8")
    # The same page of nothing, of one model, of models that are not there, and of very many.
    several = [document["models"][0] | {"tag": f"m{i}"} for i in range(300)]
    for name, models in {
        "none": [],
        "one": document["models"][:1],
        "missing": document["models"][2:3],
        "many": several,
    }.items():
        page = render_page(document | {"models": models})
        (directory / f"{name}.html").write_text(page, encoding="utf-8")
    (directory / "catalog.json").write_text(json.dumps(document), encoding="utf-8")
    with served(directory) as url:
        yield url


class Browser:
    """Contexts of one browser; every page is watched for errors and requests."""

    def __init__(self, playwright: Any, site: str) -> None:
        executable = shutil.which("chromium")
        assert executable, "these tests want chromium: apt-get install chromium"
        self.chromium = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        self.site = site
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def open(self, path: str = "", **options: Any) -> Page:
        known = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | options
        context = self.chromium.new_context(**known)
        context.set_default_timeout(15_000)
        self.contexts.append(context)
        page: Page = context.new_page()
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self._check_request(request.url))
        page.goto(self.site + path)
        return page

    def close_pages(self) -> None:
        for context in self.contexts:
            context.close()
        self.contexts.clear()

    def _check_request(self, url: str) -> None:
        if not url.startswith((self.site, "data:")):
            self.problems.append(f"request to {url}")


@pytest.fixture(scope="module")
def chromium(site: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = Browser(playwright, site)
        yield browser
        browser.chromium.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.problems.clear()
    yield chromium
    chromium.close_pages()
    assert not chromium.problems


def shown(page: Page) -> list[str]:
    """Return the first word of the tags that are visible, from top to bottom."""
    tags = page.locator("tbody:not([hidden]) .tag").all_inner_texts()
    return [tag.split("-", maxsplit=1)[0] for tag in tags]


def opened(page: Page, tag: str) -> Locator:
    """Return the row of a tag, with its commands open."""
    row = page.locator(f"tbody[id^=m-{tag}]")
    if not row.locator("details[open]").count():
        row.locator("summary").click()
    # The choices come with the page's own event.
    expect(row.locator("#chooser")).to_be_visible()
    return row


def command(page: Page, tag: str, name: str | None = None) -> str:
    """Return the command that a row shows, after choosing one by its name."""
    row = opened(page, tag)
    if name:
        row.get_by_role("radio", name=name, exact=True).check()
    return row.locator(".line code").inner_text()


def choices(page: Page, tag: str) -> list[str]:
    labels = opened(page, tag).locator(".choices label:not([hidden])")
    return labels.all_inner_texts()


def sort(page: Page, name: str) -> str | None:
    header = page.locator("thead th", has_text=name)
    header.get_by_role("button").click()
    return header.get_attribute("aria-sort")


# --- search -------------------------------------------------------------------------------


FINDS = {
    "LARGE": ["largest"],
    "salesforce": ["middle"],
    "openrail": ["largest"],
    "abab": ["middle", "largest", "smallest"],
    "org absent": ["absent"],
    "dataset": ["smallest"],
}


def test_search(browser: Browser) -> None:
    page = browser.open()
    for typed, left in FINDS.items():
        page.get_by_label("Search").fill(typed)
        assert shown(page) == left
        expect(page.locator("#count")).to_contain_text(f"{len(left)} / 4")


def test_search_that_finds_nothing_can_be_cleared(browser: Browser) -> None:
    page = browser.open()
    page.get_by_label("Search").fill("nothing like this")
    assert shown(page) == []
    expect(page.get_by_text("No model matches.")).to_be_visible()
    page.get_by_role("button", name="Clear search and filters").click()
    assert shown(page) == ORDER
    expect(page.locator("#empty")).to_be_hidden()


FILTERS = {
    "Task": {"text-generation": ["middle", "largest"]},
    "Parameters": {"< 1B": ["middle"], "10B – 100B": ["largest"], "> 100B": []},
    "License": {"Apache-2.0": ["middle"], "openrail": ["largest"]},
    "Size": {"< 1 GB": ["middle", "smallest"], "1 – 10 GB": [], "10 – 100 GB": ["largest"]},
}


def test_filters(browser: Browser) -> None:
    page = browser.open()
    for name, found in FILTERS.items():
        for choice, left in found.items():
            page.get_by_label(name, exact=True).select_option(label=choice)
            assert shown(page) == left
            expect(page.locator("#count")).to_contain_text(f"{len(left)} / 4")
        page.get_by_label(name, exact=True).select_option(label="Any")
    page.get_by_label("Size", exact=True).select_option(label="< 1 GB")
    page.get_by_label("Task", exact=True).select_option(label="text-generation")
    page.get_by_label("Search").fill("openrail")
    expect(page.get_by_text("No model matches.")).to_be_visible()
    page.get_by_role("button", name="Clear search and filters").click()
    assert shown(page) == ORDER


def test_an_empty_table_states_the_reason(browser: Browser) -> None:
    for path, said in {"none": "no_models", "missing": "nothing_published"}.items():
        for scripts in (True, False):
            page = browser.open(f"{path}.html", java_script_enabled=scripts)
            expect(page.get_by_text(words()["en"][said])).to_be_visible()
            expect(page.locator("#empty")).to_be_hidden()
    page = browser.open()
    expect(page.locator(".nothing")).to_have_count(0)


def test_many_models_are_found_one_by_one(browser: Browser) -> None:
    page = browser.open("many.html")
    assert len(shown(page)) == 300
    page.get_by_label("Search").fill("m299")
    assert shown(page) == ["m299"]
    assert command(page, "m299") == f"hf-models restore {GHCR}:m299"


# --- sort ---------------------------------------------------------------------------------


# What a first and a second click give; columns of text begin with A, numbers with the largest.
SORTED = {
    "Model": ("absent largest middle smallest", "smallest middle largest absent"),
    "License": ("middle largest absent smallest", "largest middle absent smallest"),
    "Size": ("largest middle smallest absent", "smallest middle largest absent"),
    "Parameters": ("largest middle absent smallest", "middle largest absent smallest"),
    "Commit": ("smallest middle largest absent", "largest middle smallest absent"),
    "Published": ("middle smallest largest absent", "largest smallest middle absent"),
}


def test_sort(browser: Browser) -> None:
    page = browser.open()
    for column, (first, second) in SORTED.items():
        assert shown(page) == ORDER
        is_text = column in {"Model", "License"}
        directions = ["ascending", "descending"] if is_text else ["descending", "ascending"]
        assert sort(page, column) == directions[0]
        assert shown(page) == first.split()
        assert sort(page, column) == directions[1]
        assert shown(page) == second.split()
        assert sort(page, column) is None


def test_one_column_is_sorted_at_a_time(browser: Browser) -> None:
    page = browser.open()
    sort(page, "Size")
    sort(page, "Model")
    assert page.locator("[aria-sort]").count() == 1


# --- commands and copy --------------------------------------------------------------------


def test_commands(browser: Browser) -> None:
    page = browser.open()
    assert command(page, "middle") == f"hf-models restore {GHCR}:middle"
    run = f"docker run --rm -v ~/.cache/huggingface:/export {GHCR}:middle export"
    assert command(page, "middle", "docker run … export") == run
    assert command(page, "middle", "docker pull") == f"docker pull {GHCR}:middle"
    assert command(page, "middle", "vLLM") == "HF_HUB_OFFLINE=1 vllm serve Salesforce/codet5-small"
    assert 'pipeline("text-generation", model="Salesforce/codet5-small")' in command(
        page, "middle", "transformers"
    )
    assert page.locator("#m-absent summary").count() == 0


def test_the_commands_fit_the_model(browser: Browser) -> None:
    page = browser.open()
    every = ["hf-models restore", "docker run … export", "docker pull", "hf-models serve"]
    assert choices(page, "middle") == [*every, "transformers", "vLLM"]
    assert choices(page, "largest") == [*every, "llama.cpp"]
    assert choices(page, "smallest") == [*every, "datasets"]


def test_commands_of_our_program_link_to_its_installation(browser: Browser) -> None:
    page = browser.open()
    command(page, "middle", "hf-models restore")
    link = page.get_by_role("link", name="Install hf-models")
    expect(link).to_have_attribute("href", re.compile(r"^https://.*/docs/install\.md$"))
    page.get_by_role("button", name="切换到中文").click()
    link = page.get_by_role("link", name="安装 hf-models")
    expect(link).to_have_attribute("href", re.compile(r"/docs/install\.zh-CN\.md$"))
    command(page, "middle", "docker pull")
    expect(link).to_be_hidden()


def test_one_row_is_open_at_a_time_and_keeps_the_choice(browser: Browser) -> None:
    page = browser.open()
    command(page, "middle", "docker pull")
    assert command(page, "largest") == f"docker pull {GHCR}:largest"
    assert page.locator("tbody details[open]").count() == 1
    command(page, "largest", "llama.cpp")
    # Where the choice does not fit, the first command stands.
    assert command(page, "middle") == f"hf-models restore {GHCR}:middle"
    page = browser.open("one.html")
    expect(page.locator("#m-middle .line")).to_be_visible()


def test_copy(browser: Browser) -> None:
    page = browser.open(permissions=["clipboard-read", "clipboard-write"])
    command(page, "largest", "hf-models restore")
    button = page.get_by_role("button", name="Copy the command for largest")
    button.click()
    expect(button).to_have_text("Copied")
    expect(page.locator("#said")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"hf-models restore {GHCR}:largest"
    expect(button).to_have_text("Copy")


def test_copy_where_the_clipboard_is_not_allowed(browser: Browser) -> None:
    page = browser.open()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    opened(page, "middle")
    page.get_by_role("button", name="Copy the command for middle").click()
    expect(page.locator("#said")).not_to_be_empty()
    assert page.evaluate("getSelection().toString()") == f"hf-models restore {GHCR}:middle"


def test_another_registry_rewrites_the_commands(browser: Browser) -> None:
    page = browser.open()
    page.get_by_label("Registry").select_option(HUB)
    assert command(page, "middle") == f"hf-models restore {HUB}:middle"
    # Nobody asked this registry for the digest.
    expect(page.locator("#m-middle .pin")).to_be_hidden()
    assert command(page, "largest") == f"hf-models restore {GHCR}:largest"
    note = page.locator("#m-largest .elsewhere")
    expect(note).to_have_text(f"{HUB}: not in the chosen registry; shown for {GHCR}")


MIRRORS = {
    "mirror.example": "mirror.example",
    " https://mirror.example:5000/ ": "mirror.example:5000",
    "cache.corp/ghcr-proxy": "cache.corp/ghcr-proxy",
}


def test_a_mirror_is_in_the_commands_and_the_pin(browser: Browser) -> None:
    page = browser.open()
    pin = page.locator("#m-middle .pin samp")
    for typed, host in MIRRORS.items():
        page.get_by_label("Mirror").fill(typed)
        # Our own commands keep the image's name, and fall back to its registry.
        restore = f"hf-models restore {GHCR}:middle --mirror {host}"
        assert command(page, "middle", "hf-models restore") == restore
        assert command(page, "middle", "hf-models serve").endswith(f":middle --mirror {host}")
        expect(pin).to_have_text(f"{GHCR}@{DIGEST}")
        mirrored = f"{host}/me/hf-models"
        assert command(page, "middle", "docker pull") == f"docker pull {mirrored}:middle"
        expect(pin).to_have_text(f"{mirrored}@{DIGEST}")
    page.get_by_label("Mirror").fill("")
    assert command(page, "middle") == f"docker pull {GHCR}:middle"
    expect(pin).to_have_text(f"{GHCR}@{DIGEST}")


def test_a_mirror_of_one_registry_leaves_commands_of_others_unchanged(browser: Browser) -> None:
    page = browser.open()
    page.get_by_label("Registry").select_option(HUB)
    page.get_by_label("Mirror").fill("mirror.example")
    assert command(page, "middle") == f"hf-models restore {HUB}:middle --mirror mirror.example"
    assert command(page, "largest") == f"hf-models restore {GHCR}:largest"


def test_a_mirror_that_is_none_changes_no_command(browser: Browser) -> None:
    page = browser.open()
    field = page.get_by_label("Mirror")
    for typed in ("a b", "x; rm -rf ~", "$(id)", "-x", "a/../b"):
        field.fill(typed)
        assert command(page, "middle") == f"hf-models restore {GHCR}:middle"
        assert field.get_attribute("aria-invalid") == "true"
        expect(page.get_by_role("alert")).to_contain_text("Want a host")


def test_choices_are_remembered(browser: Browser) -> None:
    page = browser.open()
    page.get_by_label("Registry").select_option(HUB)
    page.get_by_label("Mirror").fill("mirror.example")
    command(page, "middle", "docker pull")
    page.get_by_role("button", name="Switch to dark colors").click()
    page.get_by_role("button", name="切换到中文").click()
    page.reload()
    assert page.get_by_label("镜像仓库").input_value() == HUB
    assert command(page, "middle") == "docker pull mirror.example/me/hf-models:middle"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


# --- keyboard -----------------------------------------------------------------------------


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.className"))


def test_everything_by_keyboard(browser: Browser) -> None:
    page = browser.open(permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("/")
    assert focused(page) == "search"
    assert page.get_by_label("Search").input_value() == ""
    page.keyboard.type("a/b")
    assert page.get_by_label("Search").input_value() == "a/b"
    page.keyboard.press("Escape")
    assert page.get_by_label("Search").input_value() == ""
    page.locator("[data-sort=size]").focus()
    page.keyboard.press("Enter")
    assert shown(page) == ["largest", "middle", "smallest", "absent"]
    page.locator("#m-middle summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#m-middle #chooser")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert command(page, "middle") == f"docker pull {GHCR}:middle"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused(page) == "copy"
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Copied")


def test_the_first_tab_skips_to_the_models(browser: Browser) -> None:
    page = browser.open()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the models")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert focused(page) == "models"


def test_every_stop_of_the_tab_key_is_seen(browser: Browser) -> None:
    page = browser.open()
    opened(page, "middle")
    page.evaluate("document.activeElement.blur()")
    stops = 0
    while True:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        stops += 1
        # A radio is invisible; what is beside it has the outline.
        outline = page.evaluate("""() => {
          const at = document.activeElement;
          return getComputedStyle(at.type === "radio" ? at.nextElementSibling : at).outlineStyle;
        }""")
        assert outline == "solid", focused(page)
    assert stops > 12


# --- languages, colors, sizes -------------------------------------------------------------


@pytest.mark.parametrize(("locale", "language"), [("zh-CN", "zh"), ("zh-TW", "zh"), ("de", "en")])
def test_the_language_is_the_readers(browser: Browser, locale: str, language: str) -> None:
    page = browser.open(locale=locale)
    text = words()[language]
    assert page.evaluate("document.documentElement.lang") == {"zh": "zh-CN", "en": "en"}[language]
    assert page.title() == text["title"]
    expect(page.get_by_role("heading", level=1)).to_have_text(text["headline"])
    for item in page.locator("[data-w]").all():
        assert item.text_content() == text[str(item.get_attribute("data-w"))]
    assert page.get_by_label(text["search"]).get_attribute("placeholder") == text["search_hint"]


def test_the_language_can_be_switched_there_and_back(browser: Browser) -> None:
    page = browser.open()
    page.get_by_role("button", name="切换到中文").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(words()["zh"]["headline"])
    page.get_by_role("button", name="Switch to English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(words()["en"]["headline"])


# Every visible text and what is behind it: the contrast by WCAG 2.2, section 1.4.3.
CONTRAST = """() => {
  const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (item) => {
    for (; item; item = item.parentElement) {
      const color = numbers(getComputedStyle(item).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const item = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !item.checkVisibility()) continue;
    const pair = [light(numbers(getComputedStyle(item).color)), light(behind(item))].sort();
    const [dark, bright] = pair[0] < pair[1] ? pair : [pair[1], pair[0]];
    found.push([(bright + 0.05) / (dark + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
}"""
AA = 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("javascript", [True, False], ids=["js", "no js"])
def test_every_text_has_enough_contrast(browser: Browser, scheme: str, javascript: bool) -> None:
    page = browser.open(color_scheme=scheme, java_script_enabled=javascript)
    page.locator("tbody summary").first.click()
    found = page.evaluate(CONTRAST)
    assert len(found) > 40
    assert not [pair for pair in found if pair[0] < AA]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_can_be_switched(browser: Browser, scheme: str) -> None:
    page = browser.open(color_scheme=scheme)
    other = "dark" if scheme == "light" else "light"
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name=f"Switch to {other} colors").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.get_by_role("button", name=f"Switch to {scheme} colors").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == before


# What leaves the screen may be clipped and so not scroll: every box counts as well.
TOO_WIDE = """() => [...document.querySelectorAll("main *, header *")]
  .filter((item) => item.checkVisibility() && !item.closest("code, pre, .unseen"))
  .filter((item) => item.getBoundingClientRect().right > innerWidth + 0.5)
  .map((item) => item.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, locale: str) -> None:
    page = browser.open(locale=locale)
    opened(page, "smallest")
    for width in (360, 390, 600, 820, 1000):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_WIDE) == []


def test_a_phone_can_sort_and_copy(browser: Browser) -> None:
    page = browser.open(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.get_by_role("columnheader", name="Size").get_by_role("button").tap()
    assert shown(page)[0] == "largest"
    opened(page, "largest")
    copy = page.get_by_role("button", name="Copy the command for largest")
    box = copy.bounding_box()
    assert box is not None
    assert box["height"] >= 44  # a finger
    copy.tap()
    expect(copy).to_have_text("Copied")


def test_without_javascript_it_is_a_plain_table(browser: Browser) -> None:
    page = browser.open(java_script_enabled=False)
    assert shown(page) == ORDER
    page.locator("#m-middle summary").click()
    expect(page.get_by_text(f"hf-models restore {GHCR}:middle")).to_be_visible()
    expect(page.locator(".notice")).to_be_visible()
    for gone in ("#search", "#theme", "#language", "#chooser", ".copy >> nth=0"):
        expect(page.locator(gone)).to_be_hidden()
    for button in page.locator("thead button").all():
        expect(button).to_be_disabled()


def test_a_table_stays_a_table_for_screen_readers_on_a_phone(browser: Browser) -> None:
    page = browser.open(viewport={"width": 360, "height": 740})
    assert page.get_by_role("columnheader").count() == 6
    assert page.get_by_role("rowheader").count() == 4
    row = page.get_by_role("row", name="middle")
    expect(row.first.get_by_role("cell").nth(2)).to_contain_text("242 MB")


def test_an_address_leads_to_one_model(browser: Browser) -> None:
    page = browser.open("#m-largest", viewport={"width": 800, "height": 300})
    expect(page.locator("#m-largest .tag")).to_be_in_viewport()
    expect(page.locator("#m-largest .line")).to_be_visible()


def test_the_content_security_policy_allows_only_the_page(browser: Browser) -> None:
    page = browser.open()
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
      document.body.setAttribute("style", "display: none");
    }""")
    assert not page.evaluate("window.ran")
    assert page.locator("body").is_visible()
    assert page.evaluate("fetch('catalog.json').then(() => 'read', () => 'refused')") == "refused"
    refused = [text for text in browser.problems if "Content Security Policy" in text]
    assert len(refused) == len(browser.problems) >= 3
    browser.problems.clear()


def test_links_lead_to_repo_commit_image_and_attestations(browser: Browser) -> None:
    page = browser.open()
    repo = page.get_by_role("link", name="bigcode/starcoder")
    assert repo.get_attribute("href") == "https://huggingface.co/bigcode/starcoder"
    long = page.locator("tbody").last.locator(".commit")
    assert str(long.get_attribute("href")).startswith("https://huggingface.co/datasets/org/")
    assert str(long.get_attribute("href")).endswith(f"/tree/{'ab' * 20}")
    row = opened(page, "middle")
    addresses = {
        GHCR: f"https://{GHCR}",
        HUB: "https://hub.docker.com/r/me/hf-models/tags?name=middle",
        "Attestations": f"{SOURCE_URL}/attestations",
    }
    for name, address in addresses.items():
        assert row.get_by_role("link", name=name).get_attribute("href") == address


def test_a_phone_shows_search_and_the_first_model(browser: Browser) -> None:
    page = browser.open(viewport={"width": 390, "height": 844})
    expect(page.get_by_label("Search")).to_be_in_viewport()
    expect(page.locator("#m-middle .tag")).to_be_in_viewport()
    expect(page.get_by_label("Mirror")).to_be_hidden()
    page.get_by_text("Filters, registry, mirror").click()
    page.get_by_label("Mirror").fill("mirror.example")
    assert command(page, "middle").endswith(" --mirror mirror.example")
