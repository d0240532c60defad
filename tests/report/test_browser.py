"""The page in a real Chromium: it says nothing on the console, asks for nothing, and fits its window."""

from pathlib import Path
from typing import Any

import pytest

from compress.report import to_html

# What lies outside the window, other than inside parts that scroll by themselves.
SPILT = """[...document.querySelectorAll("body *")].filter(part =>
    !part.parentElement.closest(".scroll, pre") && part.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map(part => part.outerHTML.slice(0, 80))"""
# Text of pictures beyond their edges, which would be cut off.
CUT = """[...document.querySelectorAll("svg text")].filter(text => {
    const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect()
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1
}).map(text => text.textContent)"""


@pytest.fixture
def page(report: dict[str, Any], tmp_path: Path) -> Path:
    report["model"] = "a_model_with_a_name_that_is_much_too_long_for_the_window_of_a_telephone"
    report["layers"][0]["name"] = "encoder.layer.11.attention.output.dense"
    path = tmp_path / "report.html"
    path.write_text(to_html(report, "model: net\npasses:\n- prune_channels:\n    exclude: [" + "a, " * 80 + "a]\n"))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_page_fits_its_window_and_is_quiet(browser: Any, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, scheme)
    assert browser.value("document.title").endswith(": compress report")
    assert browser.said == [f"request: {page.as_uri()}"]
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") is True
    assert browser.value(SPILT) == []
    assert browser.value(CUT) == []
    ground = browser.value("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    if width == 1200:
        tops = "[...document.querySelectorAll('.columns-3 figure')].map(part => part.getBoundingClientRect().top)"
        assert len(set(browser.value(tops))) == 1  # side by side


def test_on_paper_no_table_is_cut_and_dark_windows_do_not_matter(browser: Any, page: Path) -> None:
    browser.open(page, 690, "dark", "print")  # A4 within its margins
    assert (
        browser.value("[...document.querySelectorAll('.scroll')].filter(part => part.scrollWidth > part.clientWidth).length") == 0
    )
    assert browser.value("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_browser_would_tell(browser: Any, tmp_path: Path) -> None:
    """An error, a request and an overflow, so that their absence above means something."""
    path = tmp_path / "bad.html"
    path.write_text("<script>console.error('no')</script><img src='gone.png'><p style='width: 5000px'>wide</p>")
    browser.open(path, 400)
    assert any("error" in said for said in browser.said)
    assert f"request: {path.with_name('gone.png').as_uri()}" in browser.said
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") is False
    assert len(browser.value(SPILT)) == 1
