"""The HTML report: whole in itself, with every text escaped; and how a real browser shows and prints it."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mpc.study import UNRESTRICTED, Statistic
from nodes.report import report
from tests.nodes.findings import HOSTILE, found

pytest.importorskip("matplotlib", reason="the extra 'results' is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Page(HTMLParser):
    """Elements, their attributes and all text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> dict[str, str]:
        """The SVG source of each, by what it is called."""
        found = {}
        for tag, attributes in self.elements:
            if tag == "img":
                kind, data = (attributes["src"] or "").split(",", 1)
                assert kind == "data:image/svg+xml;base64"
                found[attributes["alt"] or ""] = base64.b64decode(data).decode()
        return found


def test_texts_of_the_study_are_texts_in_the_report() -> None:
    page = Page(report(found()))
    assert f"Ages {HOSTILE}" in page.text
    assert f"{HOSTILE} or rare" in page.text
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "form", "a"})


def test_nothing_is_fetched() -> None:
    source = report(found())
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)\w", source)
    for drawing in Page(source).pictures().values():
        assert not re.search(r"<(?:script|image|foreignObject)", drawing)
        assert not re.search(r"href=\"(?!#)", drawing)


def test_there_is_a_picture_of_histograms_survival_and_means() -> None:
    pictures = Page(report(found())).pictures()
    assert sorted(pictures) == [
        "Histogram of age",
        "Histogram of age by arm",
        "Mean of age by arm, with 95 % confidence intervals",
        "Means, with 95 % confidence intervals",
        "Survival (Kaplan-Meier, days by arm), with 95 % confidence band",
    ]
    # Text is text, as it was written: no mathematics is read into it.
    assert any("$\\frac{1$ &amp; " in drawing for drawing in pictures.values())


def test_the_same_result_gives_the_same_report() -> None:
    assert report(found()) == report(found())


def test_what_is_withheld_says_so_and_has_no_numbers() -> None:
    page = Page(report(found(Statistic.of("mean", "smokes"))))
    assert "Withheld: it would tell of fewer than 5 records with one value of smokes." in page.text
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "table"})


@pytest.mark.parametrize("kind", ["mean", "histogram", "kaplan-meier"])
def test_groups_without_records_are_no_trouble(kind: str) -> None:
    others = ("event",) if kind == "kaplan-meier" else ()
    statistic = Statistic.of(kind, "days", *others, by="arm")
    assert "placebo" in report(found(statistic, release=UNRESTRICTED))


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"there is no browser to look with: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        # Its sandbox needs rights that a container may not give; it sees one file of our own.
        running = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def shown(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The report on a narrow screen, with all that the browser asks for and complains of."""
    path = tmp_path / "report.html"
    path.write_text(report(found()), encoding="utf-8")
    page = browser.new_page(viewport={"width": 700, "height": 900})
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    page.goto(path.as_uri())
    yield page
    page.close()


def test_a_browser_shows_every_picture_and_asks_for_nothing(shown: Any) -> None:
    assert shown.complaints == []
    assert [url for url in shown.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in shown.asked if url.startswith("file:")]) == 1
    sizes = shown.eval_on_selector_all("img", "all => all.map(one => [one.naturalWidth, one.naturalHeight, one.clientWidth])")
    assert len(sizes) == 5
    for width, height, seen in sizes:
        assert width > 300
        assert height > 80
        assert 300 < seen <= 700
    assert shown.inner_text("h1") == f"Ages {HOSTILE}"


def test_a_browser_shows_the_numbers_without_scrolling_the_page(shown: Any) -> None:
    heading = shown.locator("section", has=shown.locator("h2", has_text=re.compile("^mean-age$")))
    assert "n = 233" in heading.inner_text()
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_pictures_have_colour_where_their_curves_are(shown: Any) -> None:
    picture = shown.locator("img[alt^='Survival']").screenshot()
    from io import BytesIO

    from matplotlib.image import imread

    pixels = imread(BytesIO(picture), format="png")[..., :3]
    coloured = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 0.3
    assert coloured.mean() > 0.002


def test_a_browser_prints_it(shown: Any) -> None:
    printed = shown.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2
