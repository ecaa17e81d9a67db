"""The explorer page, driven in a browser as a user would: mouse, finger, keys, saving, small windows."""
import base64
import math
import os
import re
import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import SMALL, smooth_generator
from PIL import Image

from abp import ABP, Config
from explorer import page as explorer_page
from explorer.page import grid_images, principal_components, write_explorer
from inference.measures import generate
from utils import to_pixels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# ---- pages: a trained generator, and random smooth ones of other shapes

@pytest.fixture(scope="module")
def trained(images):
    """A generator after 60 short epochs on the six faces, sharply told apart: (config, net, z)."""
    sharp = {"mse_sigma": 0.5, "sigma_start": 2, "z_noise": 0, "learn_num_steps": 4}
    config = Config(**SMALL | {"hidden": 64, "width": 8, "n_epochs": 60} | sharp)
    model = ABP(config, images)
    list(model.train())
    return config, model.net, model.z


def smooth(n=24, **options):
    """A random generator of the shape that the options ask for, with contrast, and n latents."""
    config = Config(**{"img_size": 128, "hidden": 64, "width": 4} | options)
    net = smooth_generator(config.nz, config.img_size, config.hidden, config.width)
    net.code[0].weight /= config.prior_sigma
    return config, net, config.prior_sigma * torch.randn(n, config.nz)


@pytest.fixture
def write(tmp_path):
    """write(config, net, z) -> the path of its page; training images are the generator's own."""
    def make(config, net, z, start="warm"):
        path = tmp_path / start / "explorer.html"
        path.parent.mkdir(exist_ok=True)
        write_explorer(net, z, generate(net, z), config, path)
        assert path.stat().st_size < 4_000_000
        return path
    return make


@pytest.fixture(scope="module")
def browser():
    """Chromium. Where it is not installed these tests skip, unless REQUIRE_BROWSER is set: then they fail."""
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        message = "needs Chromium (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("REQUIRE_BROWSER") else pytest.skip(message)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield playwright.chromium.launch(executable_path=found[0], args=arguments)


@pytest.fixture
def open_page(browser):
    """open_page(path, **context options) -> the page once it is ready. No message, no request but its own."""
    contexts, troubles = [], []

    def make(path, **options):
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
    """Where in the window the point (x, y) of the plane lies, both from -1 at the left and below to 1."""
    box = page.locator("#plane").bounding_box()
    return box["x"] + box["width"] * (1 + x) / 2, box["y"] + box["height"] * (1 - y) / 2


def wait(page, condition):
    """Until a condition holds. (Playwright's own waiting evaluates strings: the page's policy forbids it.)"""
    for _ in range(2000):
        if page.evaluate(condition):
            return
        settle(page)
    pytest.fail(f"still not so: {condition}")


def settle(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page):
    """z as the page states it, and the picture on its canvas: (side, side, 3) of 0 to 255."""
    settle(page)
    z1, z2, url = page.evaluate("[Number(image.dataset.z1), Number(image.dataset.z2), image.toDataURL()]")
    with Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) as canvas:
        return (z1, z2), np.asarray(canvas.convert("RGB"), float)


def picture(net, config, *z, side=128):
    latent = torch.zeros(1, config.nz)
    latent[0, :min(2, config.nz)] = torch.tensor(z[:config.nz][:2])
    return to_pixels(generate(net, latent, min(side, config.img_size))[0]).astype(float)


def psnr(a, b):
    return 10 * math.log10(255**2 / np.square(a - b).mean())


# ---- the picture

@pytest.mark.parametrize("shape", [
    "trained", {}, {"prior_sigma": 0.25}, {"nz": 1}, {"nz": 5}, {"img_size": 256, "width": 2},
    {"img_size": 64, "mask": "pepper:0.5"}], ids=str)
def test_the_picture_is_the_generators_at_the_pointer(open_page, write, trained, shape):
    config, net, z = trained if shape == "trained" else smooth(**shape)
    page = open_page(write(config, net, z))
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
        wrong.append([psnr(seen, picture(net, config, *z)) for z in elsewhere]
                     + [psnr(seen[::-1], truth), psnr(seen[:, ::-1], truth), psnr(seen[..., ::-1], truth)])
    assert min(right) > 34
    # what a wrong axis, a flip or a grid that is off by half a cell would show is much further away
    assert np.mean(right) > 5 + np.mean(wrong, 0).max(), (np.mean(right), np.mean(wrong, 0))


def test_the_picture_changes_continuously_across_the_grid(open_page, write):
    page = open_page(write(*smooth(img_size=32)))
    pictures = []
    for k in range(80):                                   # twelve cells
        page.evaluate("(x) => moveTo(x, 0.3)", -1.2 + 0.03 * k)
        pictures.append(shown(page)[1])
    steps = [np.abs(b - a).mean() for a, b in zip(pictures, pictures[1:], strict=False)]
    assert max(abs(b - a) for a, b in zip(steps, steps[1:], strict=False)) < 0.25 * max(steps)


# ---- mouse, keys, finger

def test_keys_move_z_draw_and_play(open_page, write):
    config, net, z = smooth(img_size=32)
    page = open_page(write(config, net, z))
    plane = page.locator("#plane")
    assert "arrow keys" in plane.get_attribute("aria-label")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")                            # past the link to the other start
    assert page.evaluate("document.activeElement.id") == "plane"
    assert plane.evaluate("(e) => getComputedStyle(e).outlineStyle") == "solid"
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    (z1, z2), seen = shown(page)
    assert (z1, z2) == pytest.approx((0.1, 0.05)) and psnr(seen, picture(net, config, z1, z2)) > 34
    wait(page, "$('live').textContent === 'z = (0.10, 0.05)'")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    settle(page)
    assert page.locator("#play").text_content() == "Play the walk"
    page.keyboard.press("Space")
    settle(page)
    assert page.locator("#play").text_content() == "Stop"
    wait(page, "$('play').textContent === 'Play the walk'")
    assert shown(page)[0] == pytest.approx((-0.3, 0.05))
    page.keyboard.press("Home")
    page.keyboard.press("Escape")
    assert shown(page)[0] == (0, 0) and page.locator("#clear").is_disabled()
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator("#play").text_content() == "Stop"           # the tour
    wait(page, "Number(image.dataset.z1) !== 0")


def drag(page, points):
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=8)
    page.mouse.up()


def test_a_drawn_walk_is_played_along_its_path(open_page, write):
    page = open_page(write(*smooth(img_size=32)))
    drag(page, [(-0.3, -0.2), (0.1, -0.2), (0.1, 0.2)])
    visited = []
    for _ in range(300):
        visited.append(shown(page)[0])
        if page.locator("#play").text_content() != "Stop":
            break
    assert visited[-1] == pytest.approx((0.3, 0.6), abs=0.02)
    assert len({z for z in visited}) > 10
    for z1, z2 in visited:                                # on one of the two legs, within two pixels
        assert min(abs(z2 + 0.6) + max(0, -0.9 - z1, z1 - 0.3), abs(z1 - 0.3)) < 0.03
    assert min(z1 for z1, _ in visited) < -0.5            # it began at the beginning
    page.mouse.move(*place(page, 0.5, 0.5))
    assert shown(page)[0] == pytest.approx((1.5, 1.5), abs=0.02)    # afterwards the pointer leads again


def test_a_click_is_no_walk(open_page, write):
    page = open_page(write(*smooth(img_size=16)))
    page.mouse.click(*place(page, 0.4, 0.4))
    settle(page)
    assert page.locator("#play").text_content() == "Play the tour" and page.locator("#clear").is_disabled()


def test_a_finger_moves_draws_and_plays_by_the_button(open_page, write):
    config, net, z = smooth(img_size=32)
    page = open_page(write(config, net, z), viewport={"width": 390, "height": 844}, has_touch=True,
                     is_mobile=True)
    page.touchscreen.tap(*place(page, 0.5, -0.5))
    (z1, z2), seen = shown(page)
    assert (z1, z2) == pytest.approx((1.5, -1.5), abs=0.03) and psnr(seen, picture(net, config, z1, z2)) > 34
    client = page.context.new_cdp_session(page)
    for k in range(9):
        x, y = place(page, 0.5 - 0.05 * k, -0.5)
        kind = "touchStart" if k == 0 else "touchMove"
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert shown(page)[0] == pytest.approx((0.3, -1.5), abs=0.03)   # the finger led, the page did not scroll
    assert page.locator("#play").text_content() == "Play the walk"
    page.wait_for_timeout(500)                            # a tap just after a swipe is taken for its end
    page.locator("#play").tap()
    wait(page, "$('play').textContent === 'Stop'")
    wait(page, "$('play').textContent === 'Play the walk'")
    assert shown(page)[0] == pytest.approx((0.3, -1.5), abs=0.03)


def test_reduced_motion_plays_nothing_by_itself_and_walks_in_stills(open_page, write):
    page = open_page(write(*smooth(img_size=16)), reduced_motion="reduce")
    drag(page, [(-0.3, 0), (0.3, 0)])
    settle(page)
    assert page.locator("#play").text_content() == "Play the walk"
    page.locator("#play").click()
    settle(page)
    visited = set()
    while page.locator("#play").text_content() == "Stop":
        visited.add(shown(page)[0])
    assert 2 <= len(visited) <= 6


# ---- saving, windows, words

def test_the_picture_is_saved_with_its_z_in_the_name(open_page, write):
    config, net, z = smooth()
    page = open_page(write(config, net, z, "cold"), accept_downloads=True)
    page.evaluate("moveTo(-0.5, 1.25)")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "cold_z_-0.50_1.25.png"
    with Image.open(BytesIO(download.value.path().read_bytes())) as saved:
        assert saved.format == "PNG" and saved.size == (128, 128)
        assert np.array_equal(np.asarray(saved.convert("RGB"), float), shown(page)[1])


@pytest.mark.parametrize("width, height", [(1280, 800), (1920, 1080), (800, 600), (390, 844), (320, 568)])
@pytest.mark.parametrize("nz", [1, 2])
def test_nothing_sticks_out_of_narrow_or_wide_windows(open_page, write, width, height, nz):
    page = open_page(write(*smooth(img_size=16, nz=nz)), viewport={"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("plane", "image", "play", "save"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    box = page.locator("#plane").bounding_box()
    assert box["width"] == pytest.approx((4 if nz == 1 else 1) * box["height"], rel=0.02)
    if width > height:
        assert box["y"] + box["height"] <= height        # the whole plane without scrolling


def test_the_page_says_what_it_leaves_out(open_page, write):
    config, net, z = smooth(n=200, img_size=16, nz=3)
    z[:7, 0] = 5
    page = open_page(write(config, net, z))
    legend = page.locator("#legend").text_content()
    inside = int((z[:, :2].abs() <= 3).all(1).sum())
    assert f"{200 - inside} of the 200 training images lie beyond the edge" in legend
    assert "3 dimensions: z₃ is 0" in legend
    drawn = page.evaluate("thumbnails.length")
    assert 30 <= drawn <= 60 and f"{drawn} training images of the {inside} on the plane are shown" in legend
    assert page.locator("#other").get_attribute("href") == "../cold/explorer.html"


def test_thumbnails_stand_at_their_z_and_can_be_hidden(open_page, write):
    config, net, z = smooth(n=1, img_size=64)
    z[0] = torch.tensor([1.5, -1.5])
    page = open_page(write(config, net, z))

    def colour_at(x, y):
        settle(page)
        with Image.open(BytesIO(page.screenshot())) as window:
            return window.convert("RGB").getpixel(place(page, x, y))

    thumbnail = np.array(colour_at(0.5, -0.5), float)
    assert np.abs(thumbnail - picture(net, config, 1.5, -1.5)[30:34, 30:34].mean((0, 1))).max() < 25
    page.locator("#thumbnails").uncheck()
    assert np.abs(np.array(colour_at(0.5, -0.5)) - thumbnail).max() > 25


def test_a_page_without_training_images_in_reach_works(open_page, write):
    config, net, z = smooth(n=3, img_size=16)
    page = open_page(write(config, net, z + 10))
    assert page.locator("#play").is_disabled() and "3 of the 3" in page.locator("#legend").text_content()


# ---- what is written

def test_the_file_is_the_same_each_time_and_leaves_the_random_state_alone(write):
    made = smooth(img_size=16)
    before = torch.get_rng_state()
    first = write(*made).read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    assert write(*made).read_bytes() == first
    assert not re.search(rb"https?://", first)


def test_principal_components_are_those_of_an_exact_decomposition():
    config, net, _ = smooth(img_size=16)
    cells = grid_images(net, config)[0].flatten(1)
    mean, basis, coordinates = principal_components(cells.clone(), 24)
    _, values, _ = torch.linalg.svd(cells - mean, full_matrices=False)
    rest = (cells - mean - coordinates @ basis).square().sum()
    assert rest < 1.05 * values[24:].square().sum() + 1e-6
    assert torch.allclose(basis @ basis.T, torch.eye(24), atol=1e-4)


def test_a_page_that_would_be_too_large_is_stored_more_coarsely(monkeypatch, write, open_page):
    config, net, z = smooth(img_size=64)
    whole = write(config, net, z).stat().st_size
    monkeypatch.setattr(explorer_page, "MOST_BYTES", int(0.8 * whole))
    path = write(config, net, z)
    assert path.stat().st_size <= 0.8 * whole
    page = open_page(path)
    page.mouse.move(*place(page, 0.3, 0.3))
    (z1, z2), seen = shown(page)
    assert psnr(seen, picture(net, config, z1, z2)) > 22
