"""The demo's page in a real browser, headless Chromium; and what its server answers to others."""

import os
from pathlib import Path

import pytest
from PIL import Image

from effedge.deploy.serving import demo
from effedge.deploy.serving.pages import SAMPLES, find_samples
from tests.browser import Browser
from tests.deploy.scenes import scene
from tests.deploy.serving.test_server import started, wait_for_answer

SHOTS = os.environ.get("EFFEDGE_SCREENSHOTS")  # a folder to keep screenshots in, to be looked at
READY = "document.documentElement.dataset.ready === 'true'"
COUNT = "document.querySelector('article summary').textContent"
STATUS = "document.getElementById('status').textContent"
REQUESTS = "performance.getEntriesByType('resource').filter((each) => each.name.includes('/detect')).length"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(serve, build, tmp_path, chromium):
    """The demo of a detector and a classifier, opened; its image is 200 x 120 with a red and a blue rectangle."""
    Image.fromarray(scene()).save(str(tmp_path / "scene.png"))
    (tmp_path / "samples").mkdir()
    Image.fromarray(scene(red=None)).save(str(tmp_path / "samples" / "blue only.png"))
    running = serve(build(), build("classification", name="other"), samples=find_samples(tmp_path / "samples"))
    del chromium.problems[:], chromium.requested[:]
    chromium.running = running
    chromium.show(1280, 900)
    chromium.open(running.url, READY)
    yield chromium
    allowed = [each for each in chromium.problems if "status of 4" in each]  # Chromium notes each refusal
    assert chromium.problems == allowed
    assert all(url.startswith((running.url, "blob:")) for url in chromium.requested), "it asks another server"


def shot(browser, name):
    if SHOTS:
        browser.screenshot(Path(SHOTS) / f"{name}.png")


def test_an_uploaded_image_is_drawn_with_its_boxes_and_latencies(page, tmp_path):
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{STATUS} === 'scene.png'")
    assert page.evaluate(COUNT) == "2 detections"
    assert page.evaluate("[...document.querySelectorAll('article h2')].map((each) => each.textContent)") == [
        "tiny",
        "tiny-cpu",
    ]
    rows = page.evaluate("[...document.querySelectorAll('article .list')[0].querySelectorAll('tr')].map("
                         "(row) => [...row.children].map((cell) => cell.textContent))")  # fmt: skip
    assert [row[:2] for row in rows] == [["red", "0.900"], ["blue", "0.700"]]
    assert [int(side) for side in rows[0][2].split(", ")] == pytest.approx([20, 40, 60, 100], abs=4)
    steps = page.evaluate("[...document.querySelectorAll('article:first-child tr[data-step]')].map("
                          "(row) => [row.dataset.step, Number(row.children[1].textContent)])")  # fmt: skip
    assert [step for step, _ in steps] == ["decode", "prepare", "queue", "engine", "select", "round trip"]
    assert sum(ms for _, ms in steps[:-1]) <= steps[-1][1] + 1
    best = page.evaluate("document.querySelectorAll('article summary')[1].textContent")
    assert best == page.evaluate("document.querySelectorAll('article .list')[1].querySelector('th').textContent") + (
        " " + best.split()[-1]
    )
    shot(page, "upload")


def test_boxes_are_drawn_where_they_are(page, tmp_path):
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{STATUS} === 'scene.png'")
    assert page.evaluate("[document.querySelector('canvas').width, document.querySelector('canvas').height]") == [
        200,
        120,
    ]
    pixel = "[...document.querySelector('canvas').getContext('2d').getImageData({}, {}, 1, 1).data].slice(0, 3)"
    assert page.evaluate(pixel.format(40, 70)) == [255, 0, 0]  # within the red rectangle
    assert page.evaluate(pixel.format(5, 110)) == [0, 0, 0]  # outside of all
    found = page.running.client.post("/detect", content=(tmp_path / "scene.png").read_bytes()).json()["detections"]
    x0, _, x1, _ = found[0]["box"]
    row = page.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(0, 70, 90, 1).data]")
    lines = [x for x in range(90) if row[4 * x + 1] > 40]  # neither the red nor the black has green; the line has
    assert lines[0] == pytest.approx(x0 - 1, abs=1) and lines[-1] == pytest.approx(x1, abs=1)


def test_the_slider_filters_without_a_request(page, tmp_path):
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{STATUS} === 'scene.png'")
    before = page.evaluate(REQUESTS)
    assert before == 2  # one an engine
    slide = "(() => {{ const slider = document.getElementById('threshold'); slider.value = {}; " \
            "slider.dispatchEvent(new Event('input')); }})()"  # fmt: skip
    for value, text in ((0.75, "1 detection"), (0.95, "no detections"), (0.1, "2 detections")):
        page.evaluate(slide.format(value))
        assert page.evaluate(COUNT) == text
    assert page.evaluate(REQUESTS) == before


def test_a_file_that_is_no_image_is_an_error_and_the_page_goes_on(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    page.upload("#file", tmp_path / "notes.txt")
    page.wait(f"{STATUS}.includes('no image')")
    assert page.evaluate("document.getElementById('status').className") == "error"
    assert page.evaluate(STATUS).startswith("notes.txt: ")
    shot(page, "error")
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{STATUS} === 'scene.png'")
    assert page.evaluate("document.getElementById('status').className") == ""


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(33 << 20))
    page.upload("#file", tmp_path / "large.png")
    page.wait(f"{STATUS}.includes('33.0 MiB, at most 32')")
    assert page.evaluate(REQUESTS) == 0


def test_a_sample_is_chosen_by_the_keyboard(page):
    page.evaluate("document.getElementById('webcam').focus()")
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.title") == "blue only.png"
    page.press("Enter", 13)
    page.wait(f"{STATUS} === 'blue only.png'")
    assert page.evaluate(COUNT) == "1 detection"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.id") == "threshold"


def test_the_webcam_runs_live_and_stops(page):
    page.evaluate("document.getElementById('webcam').click()")
    page.wait(f"{STATUS}.includes('images a second')")
    page.wait("[...document.querySelectorAll('th')].some((each) => each.textContent === 'median of 3')")
    assert page.evaluate("document.getElementById('webcam').textContent") == "Stop webcam"
    assert page.evaluate("document.querySelector('canvas').width") > 300
    assert page.evaluate(COUNT) == "1 detection"  # Chromium's fake camera is green
    shot(page, "webcam")
    page.evaluate("document.getElementById('webcam').click()")
    page.wait(f"{STATUS} === 'The webcam is off.'")
    page.wait(f"(async () => {{ const count = {REQUESTS}; await new Promise((done) => setTimeout(done, 500)); "
              f"return count === {REQUESTS}; }})()")  # fmt: skip


def test_an_image_is_tried_again_while_the_service_is_busy(page, tmp_path):
    admission = page.running.service.admission
    admission.taken = admission.places
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{REQUESTS} === 1")
    admission.taken = 0
    page.wait(f"{STATUS} === 'scene.png'")
    assert page.evaluate(COUNT) == "2 detections"


def test_without_a_service_it_says_so(page, tmp_path):
    page.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    try:
        page.upload("#file", tmp_path / "scene.png")
        page.wait(f"{STATUS}.includes('does not answer')")
    finally:
        page.send("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1,
                  uploadThroughput=-1)  # fmt: skip
    del page.problems[:]  # the failed connection


def test_the_bars_of_all_engines_have_one_scale(page, tmp_path):
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{STATUS} === 'scene.png'")
    bars = page.evaluate("[...document.querySelectorAll('td.bar span')].map((bar) => "
                         "[Number(bar.dataset.ms), parseFloat(bar.style.width)])")  # fmt: skip
    longest = max(ms for ms, _ in bars)
    assert len(page.evaluate("[...document.querySelectorAll('tr.total')].map(() => 1)")) == 2
    assert [width for _, width in bars] == pytest.approx([100 * ms / longest for ms, _ in bars], abs=0.01)


def test_many_samples_stand_in_two_columns_beside_their_scroll_bar(page):
    page.evaluate("{ const samples = document.getElementById('samples'); for (let i = 0; i < 11; i += 1) "
                  "samples.append(samples.firstElementChild.cloneNode(true)); }")  # fmt: skip
    lefts = page.evaluate("[...document.querySelectorAll('#samples button')].map((each) => each.offsetLeft)")
    assert len(set(lefts)) == 2
    assert page.evaluate("(({scrollWidth, clientWidth, scrollHeight, clientHeight}) => scrollWidth <= clientWidth && "
                         "scrollHeight > clientHeight)(document.getElementById('samples'))")  # fmt: skip


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_it_fits_the_window_in_light_and_dark(page, tmp_path, width, dark):
    page.show(width, 900, dark)
    page.upload("#file", tmp_path / "scene.png")
    page.wait(f"{STATUS} === 'scene.png'")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (light < 60) is dark
    shot(page, f"{'dark' if dark else 'light'}-{width}")


def test_the_page_may_load_nothing_from_elsewhere(serve, build):
    running = serve(build(), samples=find_samples(None))
    answer = running.client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy
    for name in ("demo.js", "webcam.js", "demo.css", "icon.svg"):
        file = running.client.get(f"/{name}")
        assert file.status_code == 200 and "//" not in file.text.replace("// ", "").replace("http://www.w3.org/", "")


def test_only_the_samples_are_served(serve, build):
    running = serve(build(), samples=find_samples(None))
    described = running.client.get("/demo.json").json()
    assert [each["name"] for each in described["samples"]] == sorted(path.name for path in SAMPLES.iterdir())
    assert described["models"][0]["labels"] == ["red", "green", "blue"]
    sample = running.client.get(described["samples"][0]["url"])
    assert sample.headers["Content-Type"] == "image/jpeg" and sample.content[:2] == b"\xff\xd8"
    for path in ("/samples/99", "/samples/-1", "/samples/..%2fdemo.py", "/page/index.html", "/../demo.py"):
        assert running.client.get(path).status_code == 404


def test_effedges_own_samples_are_small():
    assert 3 <= len(list(SAMPLES.iterdir())) <= 6
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 200_000


def test_the_command_shows_its_page(build, tmp_path):
    with started(build(), build(name="second"), name="demo") as (_, url):
        assert b"effedge demo" in wait_for_page(url)


def wait_for_page(url):
    import httpx

    wait_for_answer(url)
    return httpx.get(url).content


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tmp_path: ["nothing"], "no such folder of images: 'nothing'"),
        (lambda tmp_path: [str(tmp_path)], "no images in"),
    ],
)
def test_samples_that_are_not_there_are_one_line(build, call_main, tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    [folder] = make(tmp_path / "empty")
    status, _, errors = call_main(demo.main, build(), "--samples", folder)
    assert status == 2 and message in errors and errors.count("\n") == 1


def test_an_engine_that_takes_arrays_has_no_page(adder, call_main):
    status, _, errors = call_main(demo.main, adder)
    assert status == 2 and errors.count("\n") == 1
