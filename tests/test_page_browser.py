"""report.html in a real Chromium, opened from the disk: it renders, filters, links, and runs nothing but itself."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from harness.augment.current import MadeRows
from harness.report.page.page import PageParts, page
from harness.report.page.rows import row_blocks
from harness.report.stage import report
from tests.fakes import Quiet
from tests.needs import missing
from tests.test_page import HOSTILE, hostile_parts, row
from tests.test_report import cell, labelled, shop, store, valued

pytestmark = pytest.mark.slow
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        missing("chromium", f"none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Opened:
    """A page in a tab, with all that it logged and asked for."""

    def __init__(self, browser: Any, path: Path, fragment: str = "", **settings: Any) -> None:
        self.tab = browser.new_context(**settings).new_page()
        self.logged: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.logged.append(message.text))
        self.tab.on("pageerror", lambda error: self.logged.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(f"{path.as_uri()}{fragment}")
        self.tab.wait_for_timeout(300)

    def lines(self, name: str) -> list[str]:
        """What a list shows."""
        texts: list[str] = self.tab.locator(f"#{name}-list button[data-place]").all_inner_texts()
        return texts

    def clean(self) -> None:
        """Nothing was logged, and nothing but the file itself was asked for."""
        assert self.logged == []
        assert {url.split("#")[0] for url in self.requests} == {self.tab.url.split("#")[0]}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with stored scores: three sizes, two suites."""
    run = shop(tmp_path_factory.mktemp("shop"))
    suites = [("shop", cell(size), labelled(0.3 + size / 40, size)) for size in (0, 4, 12)]
    talk = [
        ("talk", cell(size), valued(rep_3=lambda i: 0.2 * (i % 3), repeat_share=lambda i: 0.2 * (i % 3)))
        for size in (0, 4, 12)
    ]
    store(run, [*suites, *talk])
    report(run, Quiet())
    return run.folder / "eval/report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in which every text is an attack."""
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(page(hostile_parts()), encoding="utf-8")
    return path


def test_items_can_be_filtered_flipped_and_linked_to(chromium: Any, written: Path) -> None:
    opened = Opened(chromium, written)
    everything = opened.lines("items")
    assert opened.tab.locator("#items-count").inner_text() == f"{len(everything)} of {len(everything)} items"
    opened.tab.select_option("#items-show", "b-wrong")
    wrong = opened.lines("items")
    assert wrong
    assert all(line.startswith("wrong") for line in wrong)
    button = opened.tab.locator("#items-flips tbody tr").first.locator("button").first
    count = int(button.inner_text())
    button.click()
    assert len(opened.lines("items")) == count
    opened.tab.select_option("#items-show", "all")
    opened.tab.locator("#items-list button[data-place]").nth(3).click()
    opened.tab.keyboard.press("j")
    opened.tab.keyboard.press("j")
    opened.tab.keyboard.press("k")
    heading = opened.tab.locator("#items-detail h3").inner_text()
    place = opened.tab.locator("#items-list [aria-current=true]").get_attribute("data-place")
    assert place == "4"
    item = heading.removeprefix("Item ")
    assert re.search(rf"#view=items.*item={item}", opened.tab.url)
    again = Opened(chromium, written, "#" + opened.tab.url.split("#", 1)[1])
    assert again.tab.locator("#items-detail h3").inner_text() == heading
    assert len(again.tab.locator("#items-detail .card").all()) == 3
    opened.tab.fill("#items-search", item)
    opened.tab.wait_for_timeout(400)
    assert len(opened.lines("items")) == 1
    opened.tab.fill("#items-search", "nothing holds this")
    opened.tab.wait_for_timeout(400)
    assert opened.tab.locator("#items-detail").inner_text() == "No item fits these filters."
    assert "search=nothing+holds+this" in opened.tab.url
    assert "item=" not in opened.tab.url
    for tab in (opened, again):
        tab.clean()


@pytest.mark.parametrize(
    "state", ["view=items&show=toString", "view=items&show=constructor", "view=bogus", "view=__proto__"]
)
def test_a_link_with_a_state_that_is_none_opens_the_page_as_it_is(chromium: Any, written: Path, state: str) -> None:
    opened = Opened(chromium, written, f"#{state}")
    opened.tab.keyboard.press("j")
    assert "cannot show them" not in opened.tab.locator("body").inner_text()
    opened.clean()


def test_items_are_found_by_why_an_answer_is_wrong(chromium: Any, written: Path) -> None:
    opened = Opened(chromium, written)
    kinds = opened.tab.locator("#items-cause option").all_inner_texts()
    assert [kind.split(" (")[0] for kind in kinds] == ["any", "other"], "a wrong answer is nope, which was read"
    opened.tab.select_option("#items-cause", index=1)
    lines = opened.lines("items")
    assert kinds[1] == f"other ({len(lines)})"
    assert all(line.startswith("wrong") for line in lines)
    assert "other" in opened.tab.locator("#items-detail .card.compared").nth(1).inner_text()
    again = Opened(chromium, written, "#" + opened.tab.url.split("#", 1)[1])
    assert again.lines("items") == lines
    opened.tab.select_option("#items-b", index=0)  # another candidate has other causes
    assert opened.tab.locator("#items-cause").input_value() in ("", "other")
    for tab in (opened, again):
        tab.clean()


def test_another_suite_shows_its_own_items(chromium: Any, written: Path) -> None:
    opened = Opened(chromium, written)
    opened.tab.select_option("#items-suite", label="talk")
    opened.tab.wait_for_timeout(300)
    everything = len(opened.lines("items"))
    for show in ("b-wrong", "both-wrong"):  # of a metric that is no rate, too, an item is right or wrong
        opened.tab.select_option("#items-show", show)
        assert opened.tab.locator("#items-list .bad").count() == len(opened.lines("items")) < everything
    opened.tab.select_option("#items-show", "all")
    opened.tab.locator("#items-list button[data-place]").nth(0).click()
    assert "suite=talk" in opened.tab.url
    opened.clean()


def test_no_text_of_others_runs_or_asks_for_anything(chromium: Any, hostile: Path) -> None:
    opened = Opened(chromium, hostile)
    for place in range(len(HOSTILE)):
        opened.tab.locator("#items-list button[data-place]").nth(place).click()
    opened.tab.click("#rows-open")
    opened.tab.wait_for_timeout(300)
    count = 3 * len(HOSTILE)
    assert opened.tab.locator("#rows-count").inner_text() == f"{count} of {count} rows"
    for place in range(count):
        opened.tab.locator("#rows-list button[data-place]").nth(place).click()
        opened.tab.wait_for_timeout(30)
    assert opened.tab.evaluate("window.hacked") is None
    shown = opened.tab.locator("#rows-detail").inner_text()
    assert HOSTILE[-1] in shown
    opened.tab.locator("#rows-list button[data-place]").nth(4).click()
    opened.tab.wait_for_timeout(50)
    opened.tab.locator("#rows-detail button").first.click()
    assert "[cut here: 100000 characters in all]" in opened.tab.locator("#rows-detail").inner_text()
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 1280
    opened.clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_it_is_accessible_and_fits_its_window(
    chromium: Any, written: Path, hostile: Path, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for path in (written, hostile):
        opened = Opened(chromium, path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        if path == hostile:
            opened.tab.click("#rows-open")
            opened.tab.wait_for_timeout(300)
        assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(opened.tab).response["violations"]
        assert [(rule["id"], [node["html"][:120] for node in rule["nodes"][:2]]) for rule in found] == []
        opened.clean()


def test_without_script_the_answer_the_curves_and_the_tables_read(chromium: Any, written: Path) -> None:
    opened = Opened(chromium, written, java_script_enabled=False)
    text = opened.tab.locator("body").inner_text()
    assert "Does tuning pay?" in text
    assert "Browsing needs script" in text
    assert not opened.tab.locator("#items-suite").is_visible()
    assert opened.tab.locator("svg.chart").first.is_visible()
    opened.clean()


def test_print_leaves_out_what_cannot_be_used_on_paper(chromium: Any, written: Path) -> None:
    opened = Opened(chromium, written)
    opened.tab.emulate_media(media="print")
    assert not opened.tab.locator(".browser").first.is_visible()
    assert opened.tab.locator(".answer").first.is_visible()
    assert len(opened.tab.pdf()) > 10_000


def test_fifty_thousand_rows_can_be_looked_through(chromium: Any, tmp_path: Path) -> None:
    path = many_rows(tmp_path, 50_000)
    assert path.stat().st_size < 300_000 + 5 * 2_000_000
    opened = Opened(chromium, path)
    opened.tab.click("#rows-open")
    count = opened.tab.locator("#rows-count")
    expect(count).to_have_text("50000 of 50000 rows", timeout=60_000)
    opened.tab.locator("#rows-list button[data-place]").nth(5).click()
    link = opened.tab.url
    opened.tab.locator("#rows-list .more").click()
    marked = opened.tab.locator("#rows-list [aria-current=true]")
    assert marked.get_attribute("data-place") == "5", "more lines leave the chosen one chosen"
    opened.tab.locator("#rows-list button[data-place]").nth(9).click()
    opened.tab.evaluate("link => { location.hash = link; }", link.split("#")[1])  # a link that is pasted into the page
    expect(marked).to_have_attribute("data-place", "5", timeout=60_000)
    opened.tab.fill("#rows-search", "Message 49999:")
    expect(count).to_have_text("1 of 50000 rows", timeout=60_000)
    assert len(opened.lines("rows")) == 1
    opened.clean()


def many_rows(folder: Path, count: int) -> Path:
    """A page with so many rows, each with the prompt that made it: four of 64 examples, and what was drawn for it."""
    rows = [
        row(f"Message {i}: where is order {i * 7919 % 100_003}, it was due {i % 31} days ago?") for i in range(count)
    ]
    examples = [f"- Example {i}: {'where is it, ' * (3 + i % 4)}please?" for i in range(64)]
    prompts = {
        made.provenance.request: "\n".join(
            ["Messages to a shop.", f"Customer {i}:", *(examples[i * step % 64] for step in (1, 3, 7, 11)), "-"]
        )
        for i, made in enumerate(rows)
    }
    parts: PageParts = replace(
        hostile_parts(), run="many", warnings=(), rows=row_blocks(MadeRows(rows, [], [], prompts=prompts))
    )
    path = folder / "report.html"
    path.write_text(page(parts), encoding="utf-8")
    return path
