"""The pages against axe-core: names, roles, contrast, order of heads, tables, landmarks, in both schemes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from gauntlet.leaderboard.__main__ import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")

pytestmark = pytest.mark.browser

PAGES = ("entries/*linf*trades*.html", "index.html", "compare/*linf*.html", "rankings.html")


def pictures(sample: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.full((1, 8, 8), 0.5, np.float32)
    return x, x + np.float32(0.03)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., object]) -> Path:
    folder = tmp_path_factory.mktemp("axe")
    flag = {"flags": [{"name": "zero-gradients", "detail": "seen"}]}
    for norm, eps in (("linf", "8/255"), ("l2", "0.5")):
        for defense, broken in (("trades", range(9)), ("none", range(18)), ("awp", range(8, 16))):
            write_run(
                folder / "runs", defense=defense, norm=norm, eps=eps, ids=range(20), broken=broken, chunk=20,
                change=flag, label=lambda sample: sample % 3, images=pictures if defense == "trades" else None,
            )  # fmt: skip
    assert main(["--runs", str(folder / "runs"), "--out", str(folder / "site")]) == 0
    return folder / "site"


@pytest.mark.parametrize(("width", "scheme", "pages"), [(1280, "light", PAGES), (390, "dark", PAGES[:1])])
def test_axe_finds_nothing(
    browser: Browser, site: Path, width: int, scheme: Literal["light", "dark"], pages: tuple[str, ...]
) -> None:
    engine = (files("axe_playwright_python") / "axe.min.js").read_text()
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, bypass_csp=True
    )
    found = []
    for pattern in pages:
        (path,) = site.glob(pattern)
        page = context.new_page()
        page.goto(path.as_uri())
        page.evaluate(engine)
        for each in page.evaluate("axe.run().then(result => result.violations)"):
            found.append((path.name, each["id"], [node["html"][:120] for node in each["nodes"]]))
        page.close()
    context.close()
    assert found == []
