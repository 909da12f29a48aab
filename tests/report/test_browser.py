"""The page as people see it: in a real browser, from disk, with nothing allowed to go over the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.report.fake_run import VARIANTS

pytestmark = pytest.mark.browser

# fp16 has a loss scale, three losses a curve each; where nothing was logged there is nothing to draw
PLOTS = {"failed": 7, "bare": 0, "retrieval": 9, "robust": 10, "hostile": 11}
QUICK = ("finished", "hostile")  # of every part of the page one run has something to show
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
EMPTY_PLOTS = """[...document.querySelectorAll('.plot')].filter(box => {
    const lines = [...box.querySelectorAll('.scatterlayer .js-line, .scatterlayer .point')];
    const maps = box.querySelectorAll('.heatmaplayer image');
    return !maps.length && !lines.some(line => (line.getAttribute('d') || '').length > 8);
}).map(box => box.id)"""
WIDER_THAN_PLACE = """[...document.querySelectorAll('.plot')].filter(box =>
    box.querySelector('.main-svg').getBoundingClientRect().width > box.clientWidth + 1).map(box => box.id)"""
VISION = "getComputedStyle(document.querySelector('#plot-lr .js-line'))"
UNNAMED = """[...document.querySelectorAll('img:not([alt]), .plot:not([aria-label]), table:not([aria-label])')]
    .filter(part => part.tagName !== 'TABLE' || !part.querySelector('caption, thead')).length"""
CONTRASTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const light = name => {
        canvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--' + name);
        canvas.fillRect(0, 0, 1, 1);
        const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const pairs = [['ink', 'paper'], ['quiet', 'paper'], ['quiet', 'sunk'], ['alarm', 'paper'], ['alarm', 'alarm-sunk'],
        ['warn', 'warn-sunk'], ['quiet', 'alarm-sunk'], ['quiet', 'warn-sunk'], ['accent', 'paper']];
    const lines = [['vision', 'paper'], ['connector', 'paper'], ['language', 'paper'], ['other', 'paper']];
    return [...pairs.map(pair => [pair, ratio(...pair), 4.5]), ...lines.map(pair => [pair, ratio(...pair), 3])]
        .filter(([, seen, needed]) => seen < needed);
}"""


@pytest.fixture
def look(browser, variants) -> Iterator[Callable[..., Any]]:
    """Opens the page of a variant and fails on any console message, error or network request."""
    opened: list[tuple[Any, list[str]]] = []

    def open_page(name: str, width: int = 1280, **settings: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **settings)
        page, trouble = context.new_page(), []
        page.on("console", lambda message: trouble.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: trouble.append(request.url) if request.url[:5] not in ("file:", "data:") else None,
        )
        page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url[:80]}"))
        opened.append((context, trouble))
        page.goto((variants[name] / "report.html").as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn === 'yes'", timeout=20_000)
        return page

    yield open_page
    for context, trouble in opened:
        context.close()
        assert trouble == []


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS])
def test_the_page_is_whole_on_a_desk_and_on_a_phone(look, name):
    page = look(name)
    assert page.evaluate("document.querySelectorAll('.plot').length") == PLOTS.get(name, 6)
    assert page.evaluate(EMPTY_PLOTS) == []
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate("window.hacked") is None
    assert page.evaluate(UNNAMED) == 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(150)  # plots follow in the next frame
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate(WIDER_THAN_PLACE) == []


@pytest.mark.slow
def test_the_gallery_shows_all_wrong_or_right(look):
    page = look("finished")
    shown = "[...document.querySelectorAll('.gallery li')].filter(li => li.offsetParent).map(li => li.className)"
    assert len(page.evaluate(shown)) == 24
    page.click("label[for=show-wrong]")
    assert page.evaluate(shown) == ["wrong"] * 3
    page.click("label[for=show-right]")
    assert page.evaluate(shown) == ["right"] * 21
    page.focus("#show-right")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(shown) == ["wrong"] * 3
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.slow
def test_zooming_one_plot_zooms_all_over_steps_and_a_double_click_goes_back(look):
    page = look("finished")
    ranges = (
        "['loss', 'lr', 'images'].map(id => document.getElementById('plot-' + id).layout.xaxis.range.map(Math.round))"
    )
    whole = page.evaluate(ranges)
    drag = page.locator("#plot-loss .nsewdrag")
    drag.scroll_into_view_if_needed()
    box = drag.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    loss, rate, images = page.evaluate(ranges)
    assert loss == rate != whole[0] and images == whole[2]
    assert 200 <= loss[0] <= 250 and 420 <= loss[1] <= 480
    drag.dblclick()
    page.wait_for_timeout(200)
    assert page.evaluate(ranges) == whole


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(look, scheme):
    page = look("finished", color_scheme=scheme)
    assert page.evaluate(CONTRASTS) == []
    assert page.evaluate(f"{VISION}.stroke") == {"light": "rgb(11, 107, 176)", "dark": "rgb(98, 176, 236)"}[scheme]


@pytest.mark.slow
def test_on_paper_it_is_light_unfolded_and_as_wide_as_the_paper(look):
    page = look("findings", color_scheme="dark")
    page.click("label[for=show-wrong]")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(WIDER_THAN_PLACE) == []  # redrawn at once: the browser lays the paper out right after this
    assert page.evaluate(f"{VISION}.stroke") == "rgb(11, 107, 176)"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 970})  # A4 within its margins
    page.wait_for_timeout(150)
    assert page.evaluate("[...document.querySelectorAll('details')].every(part => part.open)")
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(28, 27, 25)"
    assert page.evaluate("[...document.querySelectorAll('.gallery li')].every(li => li.offsetParent)")
    assert page.evaluate("document.querySelector('nav').offsetParent") is None
    assert page.evaluate(OVERFLOW) <= 0 and page.evaluate(WIDER_THAN_PLACE) == []
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0


@pytest.mark.slow
def test_a_pdf_has_pages(look, tmp_path):
    pdf = look("finished").pdf(format="A4", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and 3 <= pdf.count(b"/Type /Page\n") <= 9


def test_without_javascript_the_numbers_are_there(browser, variants):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((variants["finished"] / "report.html").as_uri())
    text = page.inner_text("main")
    assert "The plots need JavaScript" in text and "98.1" in text and "Median update ratio" in text
    context.close()
