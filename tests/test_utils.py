"""Image files of every kind, pictures and figures."""
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import utils
from data.draw import draw_face, draw_set, plan_set
from runs.files import hash_images
from runs.options import UserError
from utils import load_image, load_img_tensors, to_pixels, to_tensor


def gradient(w=40, h=40):
    """An RGB picture: red grows to the right, green downwards."""
    y, x = np.mgrid[:h, :w]
    pixels = np.stack([x * 255 // (w - 1), y * 255 // (h - 1), np.full((h, w), 60)], 2)
    return Image.fromarray(pixels.astype(np.uint8))


def test_every_grey_level_survives_loading_and_saving():
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert (to_tensor(levels).min(), to_tensor(levels).max()) == (-1, 1)
    assert np.array_equal(to_pixels(to_tensor(levels)), np.asarray(levels))


def test_image_files_are_sorted_by_name_and_others_skipped(tmp_path):
    for name, level in (("b.png", 100), ("a.JPG", 50), ("c.webp", 200)):
        Image.new("RGB", (20, 20), (level,) * 3).save(tmp_path / name)
    (tmp_path / "factors.csv").write_text("name,lion\n")
    (tmp_path / ".hidden.png").write_bytes(b"")
    images, names = load_img_tensors(tmp_path, 16)
    assert names == ["a.JPG", "b.png", "c.webp"] and list(hash_images(tmp_path)) == names
    assert torch.allclose(images.mean((1, 2, 3)), torch.tensor([50, 100, 200]) / 127.5 - 1,
                          atol=0.02)


def test_wide_and_tall_images_are_cropped_at_the_centre(tmp_path):
    wide = Image.new("RGB", (96, 32), "black")
    wide.paste(gradient(32, 32), (32, 0))
    wide.save(tmp_path / "wide.png")
    wide.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "tall.png")
    expected = to_tensor(gradient(32, 32))
    assert torch.equal(load_image(tmp_path / "wide.png", 32), expected)
    assert torch.equal(load_image(tmp_path / "tall.png", 32), torch.rot90(expected, 1, (1, 2)))


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert load_image(tmp_path / "stripes.png", 16).abs().max() < 0.1


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                              # to be turned a quarter clockwise
    gradient().save(tmp_path / "turned.png", exif=exif)
    upright = to_tensor(gradient().transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(load_image(tmp_path / "turned.png", 40), upright)


@pytest.mark.parametrize("mode, suffix", [
    ("L", "png"), ("P", "png"), ("LA", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png"),
    ("P", "gif"), ("I;16", "png"), ("I;16", "tif")])
def test_other_colour_modes_become_rgb(tmp_path, mode, suffix):
    picture = gradient() if mode == "I;16" else gradient().convert(mode)
    grey = gradient().convert("L")
    path = tmp_path / f"x.{suffix}"
    (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16"
     else picture).save(path)
    expected = to_tensor((grey if mode == "I;16" else picture).convert("RGB"))
    tolerance = 0.05 if suffix == "jpg" else 0
    assert (load_image(path, 40) - expected).abs().mean() <= tolerance


def test_transparent_pixels_are_white(tmp_path):
    clear = Image.new("RGBA", (20, 20), (10, 10, 10, 0))
    clear.save(tmp_path / "clear.png")
    clear.convert("LA").save(tmp_path / "clear_grey.png")
    palette = Image.new("P", (20, 20), 0)
    palette.save(tmp_path / "clear_palette.png", transparency=0)
    images, _ = load_img_tensors(tmp_path, 16)
    assert (images == 1).all()


def test_first_frame_of_an_animation_and_a_single_pixel(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "one.png")
    images, _ = load_img_tensors(tmp_path, 16)
    assert torch.allclose(images, torch.tensor([1.0, -1, -1])[:, None, None].expand(2, 3, 16, 16),
                          atol=0.02)


def test_a_photograph_with_broken_exif_data_loads(tmp_path):
    exif = (b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
            b"\x1a\x01\x05\0\xff\xff\0\0\x10\0\0\0")
    gradient().save(tmp_path / "sloppy.jpg", exif=exif)
    assert load_image(tmp_path / "sloppy.jpg", 16).shape == (3, 16, 16)


def broken(folder, kind):
    path = folder / "broken.jpg"
    if kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        gradient(200, 200).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "truncated png":
        path = folder / "broken.png"
        Image.effect_noise((200, 200), 90).save(path)
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "huge":
        path = folder / "broken.png"
        Image.new("1", (20_000, 20_000)).save(path)
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "truncated png", "huge"])
def test_broken_files_are_named_in_one_line(tmp_path, kind):
    gradient().save(tmp_path / "a.png")
    path = broken(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        load_img_tensors(tmp_path, 16)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "take it out" in message
    assert ("million pixels" in message) == (kind == "huge")


def test_folders_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for folder, words in ((tmp_path / "missing", "no such folder"), (tmp_path, "no image"),
                          (tmp_path / "notes.txt", "no such folder")):
        with pytest.raises(UserError, match=words):
            load_img_tensors(folder, 16)


def test_pictures_have_a_fixed_range(tmp_path):
    dull, vivid = torch.full((1, 3, 8, 8), 0.1), torch.ones(1, 3, 8, 8)
    utils.save_images(dull, tmp_path / "alone.png")
    utils.save_images(torch.cat([dull, vivid]), tmp_path / "beside.png")
    assert (np.asarray(Image.open(tmp_path / "alone.png")) == 140).all()
    assert (np.asarray(Image.open(tmp_path / "beside.png"))[:8, :8] == 140).all()


def test_a_grid_goes_row_by_row(tmp_path):
    levels = torch.linspace(-1, 1, 6)
    utils.save_images(levels.view(6, 1, 1, 1).expand(6, 3, 4, 4), tmp_path / "grid.png", ncol=3)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 4 + utils.GAP, 3 * 4 + 2 * utils.GAP, 3)
    assert [int(grid[y, x, 0]) for y in (1, 7) for x in (1, 7, 13)] == [0, 51, 102, 153, 204, 255]


def test_reconstructions_stand_under_their_images_in_labelled_blocks(tmp_path):
    rows = {label: torch.full((5, 3, 16, 16), level)
            for label, level in {"a": -1.0, "b": 0.0, "c": 1.0}.items()}
    rows["c"][4] = -1
    utils.save_recon(rows, tmp_path / "recon.png", ncol=3)
    sheet = np.array(Image.open(tmp_path / "recon.png"))
    row, block = 16 + utils.GAP, 3 * (16 + utils.GAP) - utils.GAP + 4
    assert sheet.shape == (block * 2 - 4, 16 + 3 * row - utils.GAP, 3)
    for k in range(2):
        for j, value in enumerate((0, 128, 255)):
            y = k * block + j * row
            assert (sheet[y:y + 16, 16:32] == value).all() and (sheet[y:y + 16, :16] < 255).any()
    # image 4, the only one that is black
    assert (sheet[block + 2 * row:, 16 + row:32 + row] == 0).all()
    assert (sheet[block:, 16 + 2 * row:] == 255).all()                   # no sixth image


def test_drawn_faces_follow_their_factors():
    face = plan_set(6)[2]
    a, b = (np.asarray(draw_face(face.lion, face.turn, face.traits, 64), float) for _ in range(2))
    assert a.shape == (64, 64, 3) and np.array_equal(a, b)
    tiger, almost, lion = (np.asarray(draw_face(v, 0.0, size=64), float) for v in (0.0, 0.02, 1.0))
    assert np.abs(tiger - almost).mean() < 0.1 * np.abs(tiger - lion).mean()
    left, right = (np.asarray(draw_face(0.0, t, size=64), float) for t in (-1.0, 1.0))
    assert np.abs(left - right).mean() > 10
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError):
            draw_face(bad, 0.0)


def test_the_committed_faces_are_the_drawn_ones():
    folder = ROOT / "data" / "drawn"
    names = [line.split(",")[0] for line in (folder / "factors.csv").read_text().splitlines()[1:]]
    assert len(names) == 24 and list(hash_images(folder)) == [f"{n}.png" for n in names]
    face, image = next(iter(draw_set()))
    stored = np.asarray(Image.open(folder / f"{face.name}.png"), float)
    assert stored.shape == (256, 256, 3) and np.abs(stored - np.asarray(image, float)).mean() < 1


def test_long_labels_of_reconstructions_fit_their_row(tmp_path):
    utils.save_recon({"a label of many words": torch.ones(1, 3, 128, 128)}, tmp_path / "recon.png")
    ink = (np.array(Image.open(tmp_path / "recon.png")).min(2) < 200).any(1).nonzero()[0]
    assert 0 < ink.min() < 20 and 108 < ink.max() < 127


def test_labels_of_reconstructions_have_eight_points_in_print(tmp_path):
    utils.save_recon({"image": torch.zeros(12, 3, 128, 128)}, tmp_path / "recon.png")
    text = 12 * 130 * 8 / (72 * 6.6)                                  # pixels, of 8 points
    sheet = np.asarray(Image.open(tmp_path / "recon.png").convert("L"))
    ink = (sheet[:, :sheet.shape[1] - 12 * 130] < 128).any(0).nonzero()[0]
    assert 0.6 * text < np.ptp(ink) < 1.1 * text


def test_figures_are_reproducible_and_in_computer_modern(tmp_path):
    history = {"warm": [{"epoch": k, "loss": 10.0 / k, "psnr": 10.0 + k} for k in (1, 2, 3)]}
    paths = [tmp_path / "a.pdf", tmp_path / "b.pdf"]
    for path in paths:
        utils.plot_stats(history, [path])
    assert paths[0].read_bytes() == paths[1].read_bytes() and b"Cmr10" in paths[0].read_bytes()
