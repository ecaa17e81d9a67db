"""The explorer page in a browser: mouse, finger, keys, saving, windows of other sizes."""
import base64
import math
import os
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
    """Chromium; without it these tests are skipped, or fail if REQUIRE_BROWSER is set."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        message = "needs Chromium (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("REQUIRE_BROWSER") else pytest.skip(message)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture
def open_page(browser, tmp_path):
    """open_page((config, net, z), start, **options of the context) -> the page once it is ready.

    Fails if the page logs to the console, raises an error or requests another file.
    """
    pages, problems = [], []

    def make(made, start="warm", **options):
        path = write(made, tmp_path, start)
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}} | options)
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        own = (f"file://{path}", "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(own) or problems.append(r.url))
        page.goto(f"file://{path}")
        wait(page, "image.dataset.z1 !== undefined")
        return page
    yield make
    for page in pages:
        page.close()
    assert problems == []


def place(page, x, y):
    """Window coordinates of the point (x, y) of the plane, both in [-1, 1]."""
    box = page.locator("#plane").bounding_box()
    return box["x"] + box["width"] * (1 + x) / 2, box["y"] + box["height"] * (1 - y) / 2


def wait(page, condition):
    """Wait for a condition; the page's policy forbids Playwright's own wait_for_function."""
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
    canvas = Image.open(BytesIO(base64.b64decode(url.split(",")[1])))
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
    assert np.mean(right) > 5 + np.mean(wrong, 0).max()     # flips, half a cell off


def test_picture_changes_continuously_across_the_grid(open_page):
    page = open_page(smooth(img_size=32))
    pictures = []
    for k in range(80):                                   # twelve cells
        page.evaluate("(x) => moveTo(x, 0.3)", -1.2 + 0.03 * k)
        pictures.append(shown(page)[1])
    steps = np.abs(np.diff(pictures, axis=0)).mean((1, 2, 3))
    assert np.abs(np.diff(steps)).max() < 0.25 * steps.max()


def test_keys_move_z_draw_and_play(open_page):
    page = open_page(smooth(img_size=32))
    assert "arrow keys" in page.get_attribute("#plane", "aria-label")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")                            # past the link to the other start
    assert page.evaluate("document.activeElement === plane")
    assert page.evaluate("getComputedStyle(plane).outlineStyle") == "solid"
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert shown(page)[0] == pytest.approx((0.1, 0.05))
    wait(page, "$('live').textContent === 'z = (0.10, 0.05)'")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert play_button(page) == "Play the walk"
    page.keyboard.press("Space")
    assert walk(page)[-1] == pytest.approx((-0.3, 0.05))
    page.keyboard.press("Home")
    page.keyboard.press("Escape")
    assert shown(page)[0] == (0, 0) and page.locator("#clear").is_disabled()
    page.keyboard.press("Enter")                          # the tour
    wait(page, "Number(image.dataset.z1) !== 0")


def drag(page, *points):
    for k, point in enumerate(points):
        page.mouse.move(*place(page, *point), steps=8)
        if k == 0:
            page.mouse.down()
    page.mouse.up()


def walk(page):
    """z at the frames of a walk until it ends."""
    settle(page)
    points, button = [], "Stop"
    while button == "Stop":
        *z, button = page.evaluate("""new Promise((done) => requestAnimationFrame(() => done(
            [+image.dataset.z1, +image.dataset.z2, $('play').textContent])))""")
        points.append(tuple(z))
    return points


def test_drawn_walk_is_played_along_its_path(open_page):
    page = open_page(smooth(img_size=32))
    drag(page, (-0.3, -0.2), (0.1, -0.2), (0.1, 0.2))
    points = walk(page)
    assert points[-1] == pytest.approx((0.3, 0.6), abs=0.02) and len(set(points)) > 10
    for z1, z2 in points:                                 # on one of two legs, within two pixels
        assert min(abs(z2 + 0.6) + max(0, -0.9 - z1, z1 - 0.3), abs(z1 - 0.3)) < 0.03
    assert min(points)[0] < -0.5                          # from its start
    page.mouse.move(*place(page, 0.5, 0.5))
    assert shown(page)[0] == pytest.approx((1.5, 1.5), abs=0.02)    # at the pointer again
    page.locator("#clear").click()
    page.mouse.click(*place(page, 0.4, 0.4))                        # a click is no walk
    assert play_button(page) == "Play the tour" and page.locator("#clear").is_disabled()


def test_finger_moves_draws_and_plays_by_the_button(open_page):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = open_page(smooth(img_size=32), **phone)
    page.touchscreen.tap(*place(page, 0.5, -0.5))
    assert shown(page)[0] == pytest.approx((1.5, -1.5), abs=0.03)
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
    assert len(points := walk(page)) > 1
    assert points[-1] == pytest.approx((0.3, -1.5), abs=0.03)


def test_reduced_motion_walks_in_stills_and_only_by_the_button(open_page):
    page = open_page(smooth(img_size=16), reduced_motion="reduce")
    drag(page, (-0.3, 0), (0.3, 0))
    assert play_button(page) == "Play the walk"
    page.locator("#play").click()
    assert 2 <= len(set(walk(page))) <= 6


def test_picture_is_saved_with_its_z_in_the_name(open_page):
    page = open_page(smooth(img_size=64), "cold")
    page.evaluate("moveTo(-0.5, 1.25)")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "cold_z_-0.50_1.25.png"
    saved = Image.open(BytesIO(download.value.path().read_bytes()))
    assert saved.format == "PNG"
    assert np.array_equal(np.asarray(saved.convert("RGB"), float), shown(page)[1])


@pytest.mark.parametrize("nz", [1, 2])
def test_page_fits_narrow_and_wide_windows(open_page, nz):
    page = open_page(smooth(img_size=16, nz=nz))
    for width, height in [(1280, 800), (1920, 1080), (800, 600), (390, 844), (320, 568)]:
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        plane, *parts = (page.locator(name).bounding_box()
                         for name in ("#plane", "#image", "#play", "#save"))
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in (plane, *parts))
        assert plane["width"] == pytest.approx((4 if nz == 1 else 1) * plane["height"], rel=0.02)
        assert width < height or plane["y"] + plane["height"] <= height      # without scrolling


@pytest.mark.parametrize("n_beyond", [7, 200])
def test_legend_counts_images_that_are_not_shown(open_page, n_beyond):
    config, net, z = smooth(n=200, img_size=16, nz=3)
    z.clamp_(-2.9, 2.9)[:n_beyond, 0] = 5
    page = open_page((config, net, z))
    legend, inside = page.text_content("#legend"), 200 - n_beyond
    assert f"{n_beyond} of the 200 training images lie beyond the edge" in legend
    assert "3 dimensions: z₃ is 0" in legend
    assert page.locator("#play").is_disabled() == (not inside)         # no tour
    drawn = page.evaluate("thumbnails.length")
    assert 30 <= drawn <= 60 if inside else drawn == 0
    assert (f"{drawn} training images of the {inside} on the plane are shown" in legend) == (
        inside > 0)
    assert page.locator("#other").get_attribute("href") == "../cold/explorer.html"


def test_thumbnails_are_at_their_z_and_can_be_hidden(open_page):
    config, net, _ = smooth(img_size=64)
    page = open_page((config, net, torch.tensor([[1.5, -1.5]])))
    centre = picture(net, config, 1.5, -1.5)[30:34, 30:34].mean((0, 1))
    errors = []
    for _ in range(2):
        settle(page)
        window = Image.open(BytesIO(page.screenshot())).convert("RGB")
        errors.append(np.abs(window.getpixel(place(page, 0.5, -0.5)) - centre).max())
        page.locator("#thumbnails").uncheck()
    assert errors[0] < 25 < errors[1]


def test_file_is_deterministic_and_the_random_state_unchanged(tmp_path):
    made = smooth(img_size=16)
    before = torch.get_rng_state()
    first = write(made, tmp_path).read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    assert write(made, tmp_path).read_bytes() == first


def test_principal_components_of_an_exact_decomposition():
    config, net, _ = smooth(img_size=16)
    cells = grid_images(net, config)[0].flatten(1)
    mean, basis, coordinates = principal_components(cells.clone(), 24)
    _, values, _ = torch.linalg.svd(cells - mean, full_matrices=False)
    rest = (cells - mean - coordinates @ basis).square().sum()
    assert rest < 1.05 * values[24:].square().sum() + 1e-6
    assert torch.allclose(basis @ basis.T, torch.eye(24), atol=1e-4)


def test_large_pages_are_stored_more_coarsely(monkeypatch, open_page, tmp_path):
    made = config, net, _ = smooth(img_size=64)
    most = int(0.8 * write(made, tmp_path).stat().st_size)
    monkeypatch.setattr(explorer_page, "MOST_BYTES", most)
    page = open_page(made)
    assert (tmp_path / "warm" / "explorer.html").stat().st_size <= most
    page.mouse.move(*place(page, 0.3, 0.3))
    at, seen = shown(page)
    assert psnr(seen, picture(net, config, *at)) > 22
