"""The page in headless Chromium: nothing is loaded, nothing fails, and nothing is wider than a telephone."""

from __future__ import annotations

import pytest

from tests.browser import Browser
from tests.pipeline.reports.report import small_engines
from tests.pipeline.reports.report.test_command import A, B, report, short  # noqa: F401

pytest.importorskip("openvino")
LONG = "a class with a very long name_that_has_no_place_to_break_" + 40 * "x"
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const luminance = colour => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(each => each / 255)
      .map(each => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll("p, th, a, .faint, .worse, .better")];
  return Math.min(...texts
    .map(each => luminance(getComputedStyle(each).color))
    .map(each => (Math.max(each, paper) + 0.05) / (Math.min(each, paper) + 0.05)));
})()"""


@pytest.fixture
def page(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.slow  # a process that has run thousands of other tests dies in it, for a reason not found yet
def test_the_page_in_light_and_dark_wide_and_narrow(page, report, tmp_path):  # noqa: F811
    names = ("cat", LONG)
    engines = [
        small_engines.detector(tmp_path / asked, [A, B], [0.9, score], [0, 1], labels=names, asked=asked)
        for asked, score in (("fp32", 0.8), ("int8", 0.1), ("fp16", 0.7))
    ]
    report(*engines, "--data", small_engines.coco(tmp_path / "data", [(0, A), (1, B)], names=names))
    url = (tmp_path / "r.html").as_uri()
    for width in (360, 1280):
        for dark in (False, True):
            page.show(width, 800, dark)
            page.open(url)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth)")
            assert page.evaluate("document.querySelectorAll('svg').length") >= 9
            assert page.evaluate(CONTRAST) >= 4.5  # WCAG 2.1, 1.4.3
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert page.problems == []
    assert {address for address in page.requested if not address.startswith("data:")} == {url}
