"""The site in a real browser, opened as a file and without network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from gauntlet.leaderboard.__main__ import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>"


def pictures(sample: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    return x, np.clip(x + np.float32(0.03), 0, 1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., object]) -> Path:
    folder = tmp_path_factory.mktemp("board")
    runs = folder / "runs"
    for defense, wrong, broken in (
        ("trades", range(0, 8), range(8, 30)),
        ("none", range(0, 2), range(2, 98)),
        ("mixing", range(0, 4), range(4, 33)),
    ):
        for attack in ("pgd", "pma"):
            write_run(runs, defense=defense, attack=attack, ids=range(100), wrong=wrong, broken=broken, images=pictures)
    write_run(runs, defense="none", norm="l2", eps="0.5", broken=[1])
    write_run(runs, defense="mixing", norm="l2", eps="0.5", attack="fgsm", broken=[1])
    flag = {"name": HOSTILE, "detail": HOSTILE}
    name = {"dataset": "digits", "threat": "x", "defense": HOSTILE, "attack": HOSTILE, "model": HOSTILE}
    change = {"flags": [flag], "name": name}
    write_run(runs, defense="hostile", victim="h", ids=range(100), broken=range(50), change=change)
    assert main(["--runs", str(runs), "--out", str(folder / "site")]) == 0
    return folder / "site"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., object]) -> Path:
    """The page of a model that was attacked without gradients, and without a bound."""
    folder = tmp_path_factory.mktemp("measured")
    asked = {sample: 40 * (sample + 1) for sample in range(20)}
    far = {sample: 0.01 * (sample + 1) for sample in range(20)}
    write_run(folder / "runs", attack="pgd", broken=range(18))
    write_run(folder / "runs", attack="square", broken=range(15), queries=asked, change={"access": "score"})
    write_run(folder / "runs", attack="rays", broken=range(9), queries=asked, change={"access": "decision"})
    write_run(folder / "runs", attack="fmn", eps="unbounded", broken=range(20), distance=far)
    assert main(["--runs", str(folder / "runs"), "--out", str(folder / "site")]) == 0
    (path,) = (folder / "site" / "entries").glob("*8-255*.html")
    return path


@pytest.fixture(scope="module")
def chancy(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., object]) -> Path:
    """The page of a randomized defense of several heads, which hides its gradient."""
    folder = tmp_path_factory.mktemp("chancy")
    change = {
        "card": {"summary": "It draws.", "claim": "all", "randomized": True, "forwards": 3.0, "parameters": 5},
        "coverage": "all", "bare": "b", "protocol": {"rule": "expected", "draws": 100},
        "draws": {"true": {"draws": 20}, "mean": {"draws": 20}},
    }  # fmt: skip
    given = {"clean": (0.1, 0.1), "pgd/true": (0.2, 0.2), "pgd/mean": (0.6, 0.55)}
    write_run(
        folder / "runs", defense="random", stages=["pgd/true", "pgd/mean"], change=change,
        shares=lambda sample, stage: given[stage],
    )  # fmt: skip
    assert main(["--runs", str(folder / "runs"), "--out", str(folder / "site")]) == 0
    return folder / "site"


WHOLE_LABEL = """cell => {
    const style = getComputedStyle(cell, "::before"), pen = document.createElement("canvas").getContext("2d");
    if (style.content === "none" || style.content === "normal") return true;
    pen.font = `${style.fontSize} ${style.fontFamily}`;
    return parseFloat(style.width) >= pen.measureText("Masking").width - 1;
}"""

WIDE, NARROW = (1440, "light"), (390, "dark")
on_both = pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"])


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, site: Path) -> Iterator[Page]:
    """The index page."""
    with opened(browser, site / "index.html", *getattr(request, "param", WIDE)) as view:
        yield view


@pytest.fixture
def curves(request: pytest.FixtureRequest, browser: Browser, measured: Path) -> Iterator[Page]:
    """The page of an entry with curves over eps and over queries."""
    with opened(browser, measured, *getattr(request, "param", WIDE)) as view:
        yield view


@contextmanager
def opened(browser: Browser, path: Path, width: int, scheme: Literal["light", "dark"]) -> Iterator[Page]:
    """A page. Whatever the browser complains about fails the test at its end."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    context.set_default_timeout(120_000)  # a busy machine
    view = context.new_page()
    complaints: list[str] = []
    view.on("console", lambda message: complaints.append(f"console: {message.text}"))
    view.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    view.on("requestfailed", lambda call: complaints.append(f"failed: {call.url}"))
    view.on("request", lambda call: None if call.url.startswith(("file:", "data:")) else complaints.append(call.url))
    view.goto(path.as_uri())
    view.wait_for_selector("html.js")
    yield view
    assert view.evaluate("window.hurt") is None
    context.close()
    assert complaints == []


def defenses(page: Page) -> list[str]:
    """The defenses of the first table, from top to bottom."""
    names = page.locator("section.board").first.locator("tbody th.defense a:visible").all_inner_texts()
    return ["hostile" if name.startswith("<") else name for name in names]


def expect(page: Page, order: list[str]) -> None:
    """The first table comes to hold these defenses in this order."""
    found = """order => {
        const names = [...document.querySelector("section.board").querySelectorAll("tbody th.defense a")];
        const texts = names.map(name => name.innerText.startsWith("<") ? "hostile" : name.innerText);
        return JSON.stringify(texts) === JSON.stringify(order);
    }"""
    page.wait_for_function(found, arg=order)


@on_both
def test_a_click_on_a_head_sorts_numbers_as_numbers(page: Page) -> None:
    expect(page, ["trades", "mixing", "hostile", "none"])
    clean, rank = (page.locator("section.board").first.locator(f"thead th.{name}") for name in ("clean", "rank"))
    clean.click()
    expect(page, ["hostile", "none", "mixing", "trades"])
    assert clean.get_attribute("aria-sort") == "descending"
    clean.click()
    expect(page, ["trades", "mixing", "none", "hostile"])
    rank.click()
    expect(page, ["trades", "mixing", "hostile", "none"])


def test_a_key_sorts_too(page: Page) -> None:
    page.locator("section.board").first.locator("thead th.defense button").focus()
    page.keyboard.press("Enter")
    expect(page, ["hostile", "mixing", "none", "trades"])
    page.keyboard.press("Enter")
    expect(page, ["trades", "none", "mixing", "hostile"])


def test_search_and_filters_narrow_all_tables_and_stay_in_the_address(page: Page) -> None:
    tables = page.locator("section.board:visible")
    assert tables.count() == 2
    page.fill("#search", "mixing")
    assert defenses(page) == ["mixing"]
    assert tables.count() == 2
    assert page.inner_text("#tally") == "2 of 6 rows"
    page.select_option("#facet-norm", "L2")
    assert tables.count() == 1
    page.select_option("#facet-flagged", "flagged")
    assert page.inner_text("#tally") == "1 of 6 rows"
    page.reload()
    assert page.input_value("#search") == "mixing"
    assert page.inner_text("#tally") == "1 of 6 rows"
    page.fill("#search", "no such thing")
    assert page.is_visible("#nothing")
    page.click("#reset")
    page.wait_for_function("document.getElementById('tally').textContent === '6 rows'")
    assert "#" not in page.url


def test_a_link_leads_to_the_evidence_and_back(page: Page) -> None:
    page.locator("th.defense a", has_text="trades").click()
    assert page.inner_text("h1") == "trades"
    assert page.locator(".examples li").count() == 22
    assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
    assert page.evaluate("document.images.length") == 66
    page.select_option("[data-narrow=stage]", "pma/true")
    assert page.locator(".examples li:visible").count() == 11
    page.click("#narrow button")
    page.wait_for_function("document.getElementById('shown').textContent === '22 of 22'")
    page.locator("details summary").first.click()
    assert "_target_: gauntlet.models.small_cnn.SmallCNN" in page.inner_text("details[open] pre")
    page.click("text=Leaderboard")
    assert page.inner_text("h1") == "Robustness leaderboard"


@on_both
def test_plots_are_drawn_and_their_points_lead_to_pages(page: Page) -> None:
    plot = page.locator(".canvas").first
    plot.scroll_into_view_if_needed()
    texts = plot.locator(".mark text").all_text_contents()
    assert {"trades", "none", "mixing"} <= set(texts)
    assert any("</script" in text for text in texts)
    page.emulate_media(color_scheme="dark")
    point = plot.locator(".mark circle").last
    point.hover()
    assert "95 %" not in plot.locator(".tip").inner_text()
    assert re.search(r"robust \d+\.\d % \(", plot.locator(".tip").inner_text())
    point.click()
    page.wait_for_url("**/entries/*.html")


def test_a_plot_can_be_magnified_and_its_marks_keep_their_values(page: Page) -> None:
    plot = page.locator(".canvas").first
    plot.scroll_into_view_if_needed()
    places = "all => all.map(mark => mark.getAttribute('transform') + mark.querySelector('path').getAttribute('d'))"
    ticks = plot.locator(".ticks text")
    whole, named = plot.locator(".mark").evaluate_all(places), ticks.all_text_contents()
    box = plot.locator(".chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.up()
    assert page.url.endswith("index.html")
    assert plot.locator(".mark").evaluate_all(places) != whole
    assert ticks.all_text_contents() != named
    plot.locator(".zoom button").nth(1).click()
    plot.locator(".zoom button").nth(1).click()
    assert plot.locator(".mark").evaluate_all(places) == whole
    assert ticks.all_text_contents() == named  # the script and the page write the same


@pytest.mark.parametrize("curves", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"])
def test_curves_over_eps_and_over_queries_are_drawn(curves: Page) -> None:
    for name, lines in (("curve", {"all runs", "fmn"}), ("queries", {"square", "rays"})):
        plot = curves.locator(f".canvas:has(#{name})")
        plot.scroll_into_view_if_needed()
        legend = curves.locator(f"figure:has(#{name}) .traces li").all_inner_texts()
        assert {text.split(" (")[0] for text in legend} == lines
        boxes = [box for box in (line.bounding_box() for line in plot.locator("path.line").all()) if box]
        assert len(boxes) == 2
        assert all(box["width"] > 80 and box["height"] > 40 for box in boxes)
        box = plot.locator(".chart").bounding_box()
        assert box is not None
        curves.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        said = plot.locator(".tip").inner_text().splitlines()
        assert len(said) == 3
        assert {line.split(" (")[0].split(":")[0] for line in said[1:]} == lines
    assert curves.locator(".chart#queries .ticks text", has_text=re.compile("^10+$")).count() == 2
    assert curves.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_pointer_reads_the_value_of_a_curve(curves: Page) -> None:
    """All runs at the middle of the axis, eps 0.102: ten of twenty are broken at 0.1, eleven at 0.11."""
    plot = curves.locator(".canvas:has(#curve)")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".chart").bounding_box()
    assert box is not None
    curves.mouse.move(box["x"] + 264 / 480 * box["width"], box["y"] + 0.5 * box["height"])
    said = plot.locator(".tip").inner_text().splitlines()
    assert said[0] == "ε 0.102"
    assert "fmn: 50.0 %" in said


@pytest.mark.parametrize("width", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_card_tells_what_the_runs_say(browser: Browser, chancy: Path, width: tuple[int, Literal["light"]]) -> None:
    with opened(browser, chancy / "index.html", *width) as view:
        cell = view.locator("td.masking")
        assert "35.0" in cell.inner_text()
        assert "mean won" in cell.inner_text()
        assert cell.evaluate(WHOLE_LABEL)
        assert "45.0" in view.locator("td.robust").inner_text()
        assert "Expected accuracy" in view.locator("td.robust").inner_text()
        view.locator("th.defense a").click()
        rows = view.locator("#card dl > div")
        found = {row.locator("dt").inner_text(): row.locator("dd").all_inner_texts() for row in rows.all()}
        assert found["Claims"] == ["all"]
        assert found["Heads attacked"] == ["true (20 draws per gradient)", "mean (20 draws per gradient)"]
        assert found["Gradient-masking index"] == ["35.0 points; mean added most, 20 samples"]
        assert found["Non-adaptive attack"] == ["80.0 % left by attacks on the deployed forward alone"]
        assert found["Adaptive attack"][0].startswith("expected accuracy, 45.0 %")
        assert found["Randomness"][0] == "Expected accuracy: 45.0 % (100 fresh draws), this entry"
        assert found["Certificate"] == ["none"]
        assert {"Clean", "Splits used", "Cost", "Evidence"} <= set(found)
        assert all(row.is_visible() for row in rows.all())
        assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@on_both
def test_nothing_is_wider_than_the_window(page: Page, site: Path) -> None:
    addresses = [
        page.url,
        *(path.as_uri() for folder in ("entries", "compare") for path in sorted(site.glob(f"{folder}/*.html"))),
    ]
    for address in addresses:
        page.goto(address, wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_without_scripts_the_table_still_reads(browser: Browser, site: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert defenses(page) == ["trades", "mixing", "hostile", "none"]
    assert not page.is_visible("#filters")
    assert page.locator(".chart .mark").first.is_visible()
    context.close()


@pytest.mark.parametrize("width", [390, 768, 1280, 1440])
def test_no_cell_of_the_table_is_cut(browser: Browser, site: Path, width: int) -> None:
    with opened(browser, site / "index.html", width, "light") as view:
        cut = "all => all.filter(box => box.scrollWidth > box.clientWidth + 1).length"
        assert view.locator(".beside > .scroll").evaluate_all(cut) == 0
        assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_filters_reach_the_plot_and_the_list_of_tables(page: Page) -> None:
    page.fill("#search", "mixing")
    assert page.locator(".canvas .mark").count() > page.locator(".canvas .mark:not(.faint)").count() == 2
    page.reload()
    assert page.locator(".canvas .mark:not(.faint)").count() == 2
    page.select_option("#facet-norm", "L2")
    assert page.locator(".contents li:visible").count() == 1
