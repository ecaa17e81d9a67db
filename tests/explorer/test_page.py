"""The explorer page in a browser: mouse, finger, keys, saving, windows of other sizes."""
import base64
import math
import os
import re
import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import smooth_generator
from PIL import Image

from abp import Config
from explorer import page as explorer_page
from explorer.page import grid_images, principal_components, write_explorer
from inference.measures import generate
from utils import to_pixels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def smooth(n=24, **options):
    """A config, a smooth random generator with contrast, and n latents."""
    config = Config(**{"img_size": 128, "hidden": 64, "width": 4} | options)
    net = smooth_generator(config.nz, config.img_size, config.hidden, config.width)
    net.code[0].weight /= config.prior_sigma
    return config, net, config.prior_sigma * torch.randn(n, config.nz)


def write(made, folder, start="warm"):
    """Write the page of (config, net, z) -> its path; training images are g(z)."""
    config, net, z = made
    path = folder / start / "explorer.html"
    path.parent.mkdir(exist_ok=True)
    write_explorer(net, z, generate(net, z), config, path)
    assert path.stat().st_size < 4_000_000
    return path


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it these tests skip, or fail if REQUIRE_BROWSER is set."""
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        message = "needs Chromium (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("REQUIRE_BROWSER") else pytest.skip(message)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield playwright.chromium.launch(executable_path=found[0], args=root)


@pytest.fixture
def open_page(browser, tmp_path):
    """open_page((config, net, z), start, **options of the context) -> the page once it is ready.

    Fails at a message on the console, an error, or a request for anything but the page itself.
    """
    contexts, troubles = [], []

    def make(made, start="warm", **options):
        path = write(made, tmp_path, start)
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        own = (f"file://{path}", "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(own) or troubles.append(r.url))
        page.goto(f"file://{path}")
        wait(page, "image.dataset.z1 !== undefined")
        return page
    yield make
    for context in contexts:
        context.close()
    assert troubles == []


def place(page, x, y):
    """Window coordinates of the point (x, y) of the plane, both in [-1, 1]."""
    box = page.locator("#plane").bounding_box()
    return box["x"] + box["width"] * (1 + x) / 2, box["y"] + box["height"] * (1 - y) / 2


def wait(page, condition):
    """Wait for a condition. (The page's policy forbids the strings that Playwright evaluates.)"""
    for _ in range(2000):
        if page.evaluate(condition):
            return
        settle(page)
    pytest.fail(f"not reached: {condition}")


def settle(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page):
    """z of the page and the picture on its canvas: (side, side, 3) in 0 to 255."""
    settle(page)
    z1, z2, url = page.evaluate("[image.dataset.z1, image.dataset.z2, image.toDataURL()]")
    with Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) as canvas:
        return (float(z1), float(z2)), np.asarray(canvas.convert("RGB"), float)


def play_button(page):
    settle(page)
    return page.locator("#play").text_content()


def picture(net, config, *z):
    latent = torch.zeros(1, config.nz)
    latent[0, :min(2, config.nz)] = torch.tensor(z[:config.nz])
    side = min(explorer_page.SIDE, config.img_size)
    return to_pixels(generate(net, latent, side)[0]).astype(float)


def psnr(a, b):
    return 10 * math.log10(255**2 / np.square(a - b).mean())


# ---- the picture

@pytest.mark.parametrize("shape, side", [
    ({}, 128), ({"img_size": 64, "prior_sigma": 0.25}, 128), ({"img_size": 64, "nz": 1}, 128),
    ({"img_size": 32, "nz": 5}, 128), ({"img_size": 64}, 32)], ids=str)
def test_picture_is_generated_at_the_pointer(open_page, monkeypatch, shape, side):
    monkeypatch.setattr(explorer_page, "SIDE", side)
    config, net, z = smooth(**shape)
    page = open_page((config, net, z))
    reach, half = 3 * config.prior_sigma, 3 * config.prior_sigma / 31           # half a cell
    right, wrong = [], []
    for x, y in ((0.31, -0.42), (-0.53, 0.11), (0.07, 0.66), (-0.2, -0.15)):
        page.mouse.move(*place(page, x, y))
        (z1, z2), seen = shown(page)
        pixel = 2 * reach / page.locator("#plane").bounding_box()["width"]
        assert abs(z1 - x * reach) < 2 * pixel
        assert z2 == 0 if config.nz == 1 else abs(z2 - y * reach) < 2 * pixel
        truth = picture(net, config, z1, z2)
        right.append(psnr(seen, truth))
        elsewhere = [(-z1, z2), (z1 + half, z2 + half), (z1 - half, z2 - half)]
        if config.nz > 1:
            elsewhere += [(z1, -z2), (z2, z1), (z1 - half, z2 + half), (z1 + half, z2 - half)]
        flipped = seen[::-1], seen[:, ::-1], seen[..., ::-1]
        wrong.append([psnr(seen, picture(net, config, *z)) for z in elsewhere]
                     + [psnr(other, truth) for other in flipped])
    assert min(right) > 34
    # a wrong axis, a flip or a grid that is off by half a cell
    assert np.mean(right) > 5 + np.mean(wrong, 0).max(), (np.mean(right), np.mean(wrong, 0))


def test_picture_changes_continuously_across_the_grid(open_page):
    page = open_page(smooth(img_size=32))
    pictures = []
    for k in range(80):                                   # twelve cells
        page.evaluate("(x) => moveTo(x, 0.3)", -1.2 + 0.03 * k)
        pictures.append(shown(page)[1])
    steps = np.abs(np.diff(pictures, axis=0)).mean((1, 2, 3))
    assert np.abs(np.diff(steps)).max() < 0.25 * steps.max()


# ---- mouse, keys, finger

def test_keys_move_z_draw_and_play(open_page):
    config, net, z = smooth(img_size=32)
    page = open_page((config, net, z))
    assert "arrow keys" in page.get_attribute("#plane", "aria-label")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")                            # past the link to the other start
    assert page.evaluate("document.activeElement === plane")
    assert page.evaluate("getComputedStyle(plane).outlineStyle") == "solid"
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    at, seen = shown(page)
    assert at == pytest.approx((0.1, 0.05)) and psnr(seen, picture(net, config, *at)) > 34
    wait(page, "$('live').textContent === 'z = (0.10, 0.05)'")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert play_button(page) == "Play the walk"
    page.keyboard.press("Space")
    assert play_button(page) == "Stop"
    wait(page, "$('play').textContent === 'Play the walk'")
    assert shown(page)[0] == pytest.approx((-0.3, 0.05))
    page.keyboard.press("Home")
    page.keyboard.press("Escape")
    assert shown(page)[0] == (0, 0) and page.locator("#clear").is_disabled()
    page.keyboard.press("Enter")
    assert play_button(page) == "Stop"           # the tour
    wait(page, "Number(image.dataset.z1) !== 0")


def drag(page, points):
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=8)
    page.mouse.up()


def test_drawn_walk_is_played_along_its_path(open_page):
    page = open_page(smooth(img_size=32))
    drag(page, [(-0.3, -0.2), (0.1, -0.2), (0.1, 0.2)])
    visited = []
    for _ in range(300):
        visited.append(shown(page)[0])
        if page.locator("#play").text_content() != "Stop":
            break
    visited.append(shown(page)[0])
    assert visited[-1] == pytest.approx((0.3, 0.6), abs=0.02)
    assert len({z for z in visited}) > 10
    for z1, z2 in visited:                                # on one of two legs, within two pixels
        assert min(abs(z2 + 0.6) + max(0, -0.9 - z1, z1 - 0.3), abs(z1 - 0.3)) < 0.03
    assert min(z1 for z1, _ in visited) < -0.5            # it began at the beginning
    page.mouse.move(*place(page, 0.5, 0.5))
    assert shown(page)[0] == pytest.approx((1.5, 1.5), abs=0.02)    # the pointer leads again
    page.locator("#clear").click()
    page.mouse.click(*place(page, 0.4, 0.4))                        # a click is no walk
    assert play_button(page) == "Play the tour"
    assert page.locator("#clear").is_disabled()


def test_finger_moves_draws_and_plays_by_the_button(open_page):
    config, net, z = smooth(img_size=32)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = open_page((config, net, z), **phone)
    page.touchscreen.tap(*place(page, 0.5, -0.5))
    at, seen = shown(page)
    assert at == pytest.approx((1.5, -1.5), abs=0.03)
    assert psnr(seen, picture(net, config, *at)) > 34
    client = page.context.new_cdp_session(page)
    for k in range(10):
        x, y = place(page, 0.5 - 0.05 * k, -0.5)
        kind = {0: "touchStart", 9: "touchEnd"}.get(k, "touchMove")
        points = [{"x": x, "y": y}] if k < 9 else []
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert shown(page)[0] == pytest.approx((0.3, -1.5), abs=0.03)   # the page did not scroll
    assert play_button(page) == "Play the walk"
    page.wait_for_timeout(500)                            # a tap just after a swipe would end it
    page.locator("#play").tap()
    wait(page, "$('play').textContent === 'Stop'")
    wait(page, "$('play').textContent === 'Play the walk'")
    assert shown(page)[0] == pytest.approx((0.3, -1.5), abs=0.03)


def test_reduced_motion_walks_in_stills_and_only_by_the_button(open_page):
    page = open_page(smooth(img_size=16), reduced_motion="reduce")
    drag(page, [(-0.3, 0), (0.3, 0)])
    assert play_button(page) == "Play the walk"
    page.locator("#play").click()
    visited = set()
    while play_button(page) == "Stop":
        visited.add(shown(page)[0])
    assert 2 <= len(visited) <= 6


# ---- saving, windows, words

def test_picture_is_saved_with_its_z_in_the_name(open_page):
    page = open_page(smooth(img_size=64), "cold", accept_downloads=True)
    page.evaluate("moveTo(-0.5, 1.25)")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "cold_z_-0.50_1.25.png"
    with Image.open(BytesIO(download.value.path().read_bytes())) as saved:
        assert saved.format == "PNG" and saved.size == (64, 64)
        assert np.array_equal(np.asarray(saved.convert("RGB"), float), shown(page)[1])


@pytest.mark.parametrize("nz", [1, 2])
def test_page_fits_narrow_and_wide_windows(open_page, nz):
    page = open_page(smooth(img_size=16, nz=nz))
    for width, height in [(1280, 800), (1920, 1080), (800, 600), (390, 844), (320, 568)]:
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        parts = map(page.locator, ("#plane", "#image", "#play", "#save"))
        boxes = [part.bounding_box() for part in parts]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        plane = boxes[0]
        assert plane["width"] == pytest.approx((4 if nz == 1 else 1) * plane["height"], rel=0.02)
        assert width < height or plane["y"] + plane["height"] <= height      # without scrolling


def test_legend_states_what_is_left_out(open_page):
    config, net, z = smooth(n=200, img_size=16, nz=3)
    z[:7, 0] = 5
    page = open_page((config, net, z))
    legend = page.text_content("#legend")
    inside = int((z[:, :2].abs() <= 3).all(1).sum())
    assert f"{200 - inside} of the 200 training images lie beyond the edge" in legend
    assert "3 dimensions: z₃ is 0" in legend
    assert 30 <= (drawn := page.evaluate("thumbnails.length")) <= 60
    assert f"{drawn} training images of the {inside} on the plane are shown" in legend
    assert page.locator("#other").get_attribute("href") == "../cold/explorer.html"


def test_thumbnails_are_at_their_z_and_can_be_hidden(open_page):
    config, net, z = smooth(n=1, img_size=64)
    z[0] = torch.tensor([1.5, -1.5])
    page = open_page((config, net, z))

    def colour():
        settle(page)
        with Image.open(BytesIO(page.screenshot())) as window:
            return np.array(window.convert("RGB").getpixel(place(page, 0.5, -0.5)), float)

    thumbnail = colour()
    assert np.abs(thumbnail - picture(net, config, 1.5, -1.5)[30:34, 30:34].mean((0, 1))).max() < 25
    page.locator("#thumbnails").uncheck()
    assert np.abs(colour() - thumbnail).max() > 25


def test_page_without_training_images_in_reach(open_page):
    config, net, z = smooth(n=3, img_size=16)
    page = open_page((config, net, z + 10))
    assert page.locator("#play").is_disabled()
    assert "3 of the 3" in page.text_content("#legend")


def test_file_is_deterministic_and_the_random_state_unchanged(tmp_path):
    made = smooth(img_size=16)
    before = torch.get_rng_state()
    first = write(made, tmp_path).read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    assert write(made, tmp_path).read_bytes() == first
    assert not re.search(rb"https?://", first)


def test_principal_components_of_an_exact_decomposition():
    config, net, _ = smooth(img_size=16)
    cells = grid_images(net, config)[0].flatten(1)
    mean, basis, coordinates = principal_components(cells.clone(), 24)
    _, values, _ = torch.linalg.svd(cells - mean, full_matrices=False)
    rest = (cells - mean - coordinates @ basis).square().sum()
    assert rest < 1.05 * values[24:].square().sum() + 1e-6
    assert torch.allclose(basis @ basis.T, torch.eye(24), atol=1e-4)


def test_large_pages_are_stored_more_coarsely(monkeypatch, open_page, tmp_path):
    config, net, z = smooth(img_size=64)
    whole = write((config, net, z), tmp_path).stat().st_size
    monkeypatch.setattr(explorer_page, "MOST_BYTES", int(0.8 * whole))
    page = open_page((config, net, z))
    assert (tmp_path / "warm" / "explorer.html").stat().st_size <= 0.8 * whole
    page.mouse.move(*place(page, 0.3, 0.3))
    at, seen = shown(page)
    assert psnr(seen, picture(net, config, *at)) > 22
