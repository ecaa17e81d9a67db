"""The sheet of animals: its rows and columns, the classifier of kinds, and the command line."""
import math

import pytest
import torch
from PIL import Image

from abp import Config
from data.draw import draw_set
from inference.measures import to_side
from runs.files import read_json
from runs.options import UserError
from utils import to_tensor
from zoo import abp, classifier, fa, pixelcnn, pixelrnn, sheet, vae
from zoo.__main__ import MODELS, main
from zoo.sheet import Entry


class Copies:
    """A model whose samples are its training images."""
    n_parameters = 0

    def __init__(self, data):
        self.data = data

    def sample(self, n):
        return self.data[torch.arange(n) % len(self.data)]


COPIER = Entry("copier", Copies)


@pytest.fixture
def twelve(tmp_path, monkeypatch):
    """A folder of twelve drawn faces without kinds; the sheet is made at 16 x 16."""
    monkeypatch.setattr(sheet, "SIDE", 16)
    folder = tmp_path / "twelve"
    folder.mkdir()
    for k, (_, image) in enumerate(draw_set(n=12, size=32)):
        image.save(folder / f"{k:02}.png")
    return folder


def rows(out, stem="animals"):
    return {row["model"]: row for row in read_json(out / f"{stem}.json")["rows"]}


def test_the_sheet_shows_copies_as_copies(faces, twelve, tmp_path):
    sheet.make({"copier": COPIER, "fa": MODELS["fa"]}, twelve, tmp_path, "sheet")
    found = rows(tmp_path, "sheet")
    assert list(found) == ["real", "copier", "FA"] and (tmp_path / "sheet.png").is_file()
    assert found["copier"]["copying"] == pytest.approx(0, abs=5e-3)
    assert found["copier"]["log_p"] is None
    assert found["FA"]["copying"] > 0.2 and found["FA"]["log_p_is"] == "exact"
    assert found["FA"]["parameters"] == 4 * 768 and math.isfinite(found["FA"]["log_p"])
    assert "FA &" in (tmp_path / "sheet.tex").read_text()
    macros = (tmp_path / "sheet_macros.tex").read_text()
    for text in ("Side}{16}", "Train}{9}", "Heldout}{3}", "Samples}{200}", "Accuracy}{--}"):
        assert rf"\zoo{text}" in macros
    with pytest.raises(UserError, match="too few"):
        sheet.make({"fa": MODELS["fa"]}, faces, tmp_path)


def test_a_model_is_reused_only_for_the_same_images(twelve, tmp_path):
    trained = []
    entries = {"copier": Entry("copier", lambda data: trained.append(1) or Copies(data))}

    def made(reuse):
        sheet.make(entries, twelve, tmp_path, reuse=reuse)
        return len(trained), rows(tmp_path)

    assert made(True) == made(True) and made(True)[0] == 1 and made(False)[0] == 2
    (tmp_path / "rows/copier.pt").write_bytes(b"broken")
    assert made(True)[0] == 3
    (twelve / "00.png").write_bytes((twelve / "01.png").read_bytes())
    assert made(True)[0] == 4


def test_kinds_come_from_factors_or_file_names(tmp_path):
    names = [f"{kind}_{k}.jpg" for kind in ("Lion", "tiger") for k in range(3)]
    assert classifier.kinds(tmp_path, names) == ["lion"] * 3 + ["tiger"] * 3
    assert classifier.kinds(tmp_path, names[:4]) is None
    assert classifier.kinds(tmp_path, ["1.png", "2.png"]) is None
    lines = [f"face_{k},{k / 3},0" for k in range(4)]
    (tmp_path / "factors.csv").write_text("\n".join(["name,lion,turn", *lines]))
    found = classifier.kinds(tmp_path, [f"face_{k}.png" for k in range(4)])
    assert found == ["tiger", "tiger", "lion", "lion"]


def test_the_classifier_of_kinds():
    drawn = list(draw_set(n=24, size=32))
    images = torch.stack([to_tensor(image) for _, image in drawn])
    known = ["lion" if face.lion > 0.5 else "tiger" for face, _ in drawn]
    one = classifier.Classifier(images[3::4], known[3::4])
    assert one.accuracy(images, known) > 0.9
    rarest, confidence = one.verdict(images)
    assert rarest == pytest.approx(0.5, abs=0.1) and 0.8 < confidence <= 1
    assert one.verdict(images[:1].expand(7, -1, -1, -1))[0] == 0
    assert one.accuracy(images, known[::-1]) < 0.1            # sorted by kind: each has the other's
    assert one.verdict(2 * images - 3)[0] == pytest.approx(rarest)               # not by brightness


class Filler:
    """Fills the lower halves of images with that of the first training image."""
    n_parameters = 3

    def __init__(self, data):
        self.data = data

    def masked(self, x):
        return torch.cat([x[:, :, :8], 0 * x[:, :, 8:]], 2)

    def fill(self, x):
        return torch.cat([x[:, :, :8], self.data[:1, :, 8:].expand(len(x), -1, -1, -1)], 2)


def test_a_model_that_fills_shows_its_input_and_measures_no_samples(twelve, tmp_path):
    entries = {"filler": Entry("filler", Filler, view="halves", fills=True)}
    for reuse in (False, True):
        sheet.make(entries, twelve, tmp_path, reuse=reuse)
        row = rows(tmp_path)["filler"]
        assert row["view"] == "halves" and row["spread"] is None and row["copying"] is None
        with Image.open(tmp_path / "animals.png") as picture:
            assert picture.height > 3 * 16


def test_a_model_that_needs_kinds_gets_them_or_is_left_out(twelve, tmp_path, capsys):
    told = []
    entries = {"steered": Entry("steered", lambda data, kinds: told.extend(kinds) or Copies(data),
                                needs_kinds=True), "copier": COPIER}
    sheet.make(entries, twelve, tmp_path)
    assert "steered needs the kinds" in capsys.readouterr().out
    assert not told and list(rows(tmp_path)) == ["real", "copier"]
    with pytest.raises(UserError, match="steered needs the kinds"):
        sheet.make({"steered": entries["steered"]}, twelve, tmp_path)
    for k, path in enumerate(sorted(twelve.iterdir())):
        path.rename(twelve / f"{'lion' if k < 6 else 'tiger'}_{k:02}.png")
    sheet.make(entries, twelve, tmp_path)
    assert told == ["lion"] * 5 + ["tiger"] * 4
    assert list(rows(tmp_path)) == ["real", "steered", "copier"]
    names, trained = sorted(path.stem for path in twelve.iterdir()), len(told)
    for lions, again in ((range(6), 0), (range(6, 12), 9)):  # other kinds: trained anew
        lines = [f"{name},{int(k in lions)},0" for k, name in enumerate(names)]
        (twelve / "factors.csv").write_text("\n".join(["name,lion,turn", *lines]))
        sheet.make(entries, twelve, tmp_path, reuse=True)
        assert len(told) == trained + again


def test_samples_are_compared_with_images_as_the_model_learns_them(twelve, tmp_path):
    def silhouettes(images):
        return torch.where(images.mean(1, keepdim=True) > 0, 1.0, -1.0).expand(-1, 3, -1, -1)

    def made(seen):
        entry = Entry("copier", lambda data: Copies(silhouettes(data)), seen=seen)
        sheet.make({"copier": entry}, twelve, tmp_path)
        with Image.open(tmp_path / "animals.png") as picture:
            return rows(tmp_path)["copier"]["copying"], picture.height

    copying, height = made(silhouettes)
    in_colour, lower = made(None)
    assert copying == pytest.approx(0, abs=5e-3) and in_colour > 0.5
    assert height - lower == 16 + 2                  # one more row: the images as they are learned


def test_copying_is_undefined_if_every_held_out_image_is_a_training_image(twelve, tmp_path):
    paths = sorted(twelve.iterdir())
    for held, other in zip(paths[3::4], (1, 0, 0), strict=True):
        held.write_bytes(paths[other].read_bytes())
    sheet.make({"copier": COPIER}, twelve, tmp_path)
    assert rows(tmp_path)["copier"]["copying"] is None


CONFIG = abp.settings(16, n_epochs=3, learn_num_steps=2, hidden=32, width=2, prior_draws=16)


@pytest.mark.parametrize("train", [
    lambda x: abp.Alternating(CONFIG, x), fa.animals,
    lambda x: vae.fit_images(vae.image_vae(CONFIG), x, CONFIG)], ids=["abp", "fa", "vae"])
def test_models_with_a_density_draw_reconstruct_and_score_images(train, images):
    model = train(images)
    samples, again = model.sample(5), model.reconstruct(images)
    assert samples.shape == (5, 3, 16, 16) and again.shape == images.shape
    assert not torch.equal(samples[0], samples[1])
    assert (again - images).square().mean() < (images - 0.5).square().mean()
    log_p = model.log_prob(images[:2])
    assert log_p.shape == (2,) and log_p.isfinite().all()
    assert (log_p > model.log_prob(torch.randn(2, 3, 16, 16).clamp(-1, 1))).all()
    assert model.n_parameters > 768 and CONFIG.mse_sigma == Config().mse_sigma / 8   # 16 of 128


@pytest.mark.parametrize("name, options", [
    *((name, {"steps": 2}) for name in ("desnet", "gan", "began", "bgan", "pixelcnn", "pixelrnn")),
    ("seqgan", {"fit_steps": 2, "first": 1, "steps": 1})])
def test_a_short_run_on_images_draws_images(name, options, images, monkeypatch):
    monkeypatch.setattr(pixelcnn, "VIEW", ((3, 4, 4), 8))                # drawn sooner
    monkeypatch.setattr(pixelrnn, "VIEW", ((1, 4, 4), 16))
    entry, x = MODELS[name], to_side(images, 32)
    model = entry.train(x, **options)
    drawn, levels = model.sample(3), entry.likelihood == "levels"
    assert drawn.shape[:2] == (3, 3) and drawn.isfinite().all() and model.n_parameters > 1000
    assert hasattr(model, "bits_per_dim") == levels and not hasattr(model, "log_prob")
    assert not levels or 0 < model.bits_per_dim(x) < 5
    assert (entry.seen is None) == (entry.view == "")
    assert entry.seen is None or (entry.seen(x).abs() <= 1).all() and (drawn.abs() <= 1).all()


@pytest.mark.parametrize("argv, message", [
    (["nothing"], "must be one of all, abp"), (["fa", "--data", "nowhere"], "no such folder"),
    (["fa", "--dat", "1"], "did you mean --data")])
def test_bad_input_ends_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_prints_the_table_of_one_model(twelve, tmp_path, capsys):
    assert main(["fa", f"--data={twelve}", f"--out={tmp_path}"]) == 0
    assert "| FA |" in capsys.readouterr().out and (tmp_path / "fa_animals.png").is_file()
