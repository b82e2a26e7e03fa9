"""The site in a real browser, opened as a file and without network."""

from __future__ import annotations

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
    names = page.locator("section.board").first.locator("tbody th.defense a").all_inner_texts()
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
    page.locator("section.board").first.locator("thead th.defense [tabindex='0']").focus()
    page.keyboard.press("Enter")
    expect(page, ["mixing", "none", "trades", "hostile"])
    page.keyboard.press("Enter")
    expect(page, ["hostile", "trades", "none", "mixing"])


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
    assert plot.locator(".scatterlayer .trace").count() == 2
    texts = plot.locator("g.textpoint, .textpoint").all_text_contents()
    assert {"trades", "none", "mixing"} <= {text.strip() for text in texts}
    assert any("</script" in text for text in texts)
    page.emulate_media(color_scheme="dark")
    point = plot.locator(".points path").first
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**/entries/*.html")


@pytest.mark.parametrize("curves", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"])
def test_curves_over_eps_and_over_queries_are_drawn(curves: Page) -> None:
    for name, traces in (("curve", {"all runs", "fmn"}), ("queries", {"square", "rays"})):
        plot = curves.locator(f"#{name}-plot")
        plot.scroll_into_view_if_needed()
        plot.locator(".legendtext").first.wait_for()
        assert {text.split(" (")[0] for text in plot.locator(".legendtext").all_text_contents()} == traces
        lines = plot.locator(".scatterlayer .trace path.js-line")
        assert lines.count() == 2
        boxes = [box for box in (line.bounding_box() for line in lines.all()) if box]
        assert all(box["width"] > 80 and box["height"] > 40 for box in boxes)
        box = plot.locator(".nsewdrag").first.bounding_box()
        assert box is not None
        curves.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"])
        plot.locator(".hoverlayer .legend").first.wait_for()
    ticks = curves.locator("#queries-plot .xtick text").all_text_contents()
    assert {"1", "10", "100"} <= {tick.strip() for tick in ticks}
    assert curves.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


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
    context.close()


@pytest.mark.parametrize("width", [390, 768, 1280, 1440])
def test_no_cell_of_the_table_is_cut(browser: Browser, site: Path, width: int) -> None:
    with opened(browser, site / "index.html", width, "light") as view:
        cut = "all => all.filter(box => box.scrollWidth > box.clientWidth + 1).length"
        assert view.locator(".beside > .scroll").evaluate_all(cut) == 0
        assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_filters_reach_the_plot_and_the_list_of_tables(page: Page) -> None:
    page.locator(".canvas").first.scroll_into_view_if_needed()
    page.locator(".scatterlayer .trace").first.wait_for(state="attached")
    page.fill("#search", "mixing")
    faint = """() => {
        const points = [...document.querySelectorAll('.canvas .points path')];
        return points.length > 1 && points.filter(point => point.style.opacity === '1').length;
    }"""
    page.wait_for_function(f"({faint})() === 1 || ({faint})() === 2")
    page.select_option("#facet-norm", "L2")
    assert page.locator(".contents li:visible").count() == 1
