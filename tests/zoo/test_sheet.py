"""The common sheet of animals: its rows, its judge, and what it says of models that can do less, or cheat."""
import math
import types

import pytest
import torch
from PIL import Image

from data.draw import draw_set
from runs.files import read_json
from runs.options import UserError
from utils import to_tensor
from zoo import classifier, fa, notes, sheet


class Copies:
    """A model that has memorised the images it saw, and nothing else."""

    def __init__(self, data):
        self.data = data

    def sample(self, n):
        return self.data[torch.arange(n) % len(self.data)]


@pytest.fixture
def twelve(tmp_path):
    """A folder of twelve drawn faces, whose names say nothing: enough to hold some out."""
    folder = tmp_path / "twelve"
    folder.mkdir()
    for k, (_, image) in enumerate(draw_set(n=12, size=32)):
        image.save(folder / f"{k:02}.png")
    return folder


def test_the_sheet_shows_a_copier_for_what_it_is(faces, twelve, tmp_path, monkeypatch):
    copier = types.SimpleNamespace(__name__="zoo.copier", animals=lambda data, seed: Copies(data))
    monkeypatch.setattr(sheet, "SIDE", 16)
    sheet.make([copier, fa], twelve, tmp_path, "sheet")
    rows = {row["model"]: row for row in read_json(tmp_path / "sheet.json")["rows"]}
    assert list(rows) == ["real", "copier", "FA"] and (tmp_path / "sheet.png").stat().st_size > 1000
    assert rows["copier"]["copying"] == pytest.approx(0, abs=5e-3) and rows["copier"]["log_p"] is None
    assert rows["FA"]["copying"] > 0.2 and rows["FA"]["bound"] == "exact"
    assert rows["FA"]["parameters"] == 4 * 768 and math.isfinite(rows["FA"]["log_p"])
    with pytest.raises(UserError, match="too few"):
        sheet.make([fa], faces, tmp_path)


def test_a_row_is_reused_for_the_same_images_alone(twelve, tmp_path, monkeypatch):
    trained = []
    copier = types.SimpleNamespace(__name__="zoo.copier",
                                   animals=lambda data, seed: trained.append(1) or Copies(data))
    monkeypatch.setattr(sheet, "SIDE", 16)

    def made(reuse):
        sheet.make([copier], twelve, tmp_path, reuse=reuse)
        return len(trained), read_json(tmp_path / "animals.json")["rows"]

    assert made(True) == made(True) and made(True)[0] == 1 and made(False)[0] == 2
    (tmp_path / "rows/copier.pt").write_bytes(b"broken")
    assert made(True)[0] == 3
    (twelve / "00.png").write_bytes((twelve / "01.png").read_bytes())
    assert made(True)[0] == 4


def test_kinds_come_from_factors_or_file_names(faces, tmp_path):
    names = [f"{kind}_{k}.jpg" for kind in ("Lion", "tiger") for k in range(3)]
    assert classifier.kinds(tmp_path, names) == ["lion"] * 3 + ["tiger"] * 3
    assert classifier.kinds(tmp_path, names[:4]) is None and classifier.kinds(tmp_path, ["1.png", "2.png"]) is None
    rows = [f"face_{k},{k / 3},0" for k in range(4)]
    (tmp_path / "factors.csv").write_text("\n".join(["name,lion,turn", *rows]))
    assert classifier.kinds(tmp_path, [f"face_{k}.png" for k in range(4)]) == ["tiger", "tiger", "lion", "lion"]


def test_a_judge_tells_tigers_from_lions_and_knows_what_it_cannot_tell():
    drawn = list(draw_set(n=24, size=32))
    images = torch.stack([to_tensor(image) for _, image in drawn])
    known = ["lion" if face.lion > 0.5 else "tiger" for face, _ in drawn]
    one = classifier.Judge(images[3::4], known[3::4])
    assert one.right(images, known) > 0.9
    verdict = one.verdict(images)
    assert verdict.rarest == pytest.approx(0.5, abs=0.1) and 0.8 < verdict.confidence <= 1
    assert one.verdict(images[:1].expand(7, -1, -1, -1)).rarest == 0
    swapped = [known[-1 - k] for k in range(24)]                 # sorted by kind: the last are the others
    assert one.right(images, swapped) < 0.1
    assert classifier.Judge(images, known).verdict(2 * images - 3).rarest == verdict.rarest    # not by brightness


class Filler:
    """Fills the lower halves of images with what stood in the first one that it saw."""
    n_parameters, view = 3, "halves"

    def __init__(self, data):
        self.data = data

    def masked(self, x):
        return torch.cat([x[:, :, :8], 0 * x[:, :, 8:]], 2)

    def fill(self, x):
        return torch.cat([x[:, :, :8], self.data[:1, :, 8:].expand(len(x), -1, -1, -1)], 2)


def test_the_sheet_shows_what_was_to_fill_and_measures_no_samples(twelve, tmp_path, monkeypatch):
    filler = types.SimpleNamespace(__name__="zoo.filler", animals=lambda data, seed: Filler(data))
    monkeypatch.setattr(sheet, "SIDE", 16)
    for reuse in (False, True):
        sheet.make([filler], twelve, tmp_path, reuse=reuse)
        record = read_json(tmp_path / "animals.json")
        row = record["rows"][1]
        assert row["model"] == "filler" and row["view"] == "halves"
        assert row["spread"] is None and row["copying"] is None
        assert "filler fills in what is missing" in record["note"]
        with Image.open(tmp_path / "animals.png") as picture:
            assert picture.height > 3 * 16


def test_who_must_know_the_kinds_is_told_them_or_left_out(twelve, tmp_path, monkeypatch, capsys):
    told = []
    steered = types.SimpleNamespace(__name__="zoo.steered",
                                    animals=lambda data, seed, kinds: told.extend(kinds) or Copies(data))
    copier = types.SimpleNamespace(__name__="zoo.copier", animals=lambda data, seed: Copies(data))
    monkeypatch.setattr(sheet, "SIDE", 16)
    sheet.make([steered, copier], twelve, tmp_path)
    assert "steered must know them, and is left out" in capsys.readouterr().out and not told
    with pytest.raises(UserError, match="several images of each; steered must know them"):
        sheet.make([steered], twelve, tmp_path)
    for k, path in enumerate(sorted(twelve.iterdir())):
        path.rename(twelve / f"{'lion' if k < 6 else 'tiger'}_{k:02}.png")
    sheet.make([steered, copier], twelve, tmp_path)
    rows = {row["model"]: row for row in read_json(tmp_path / "animals.json")["rows"]}
    assert "\nsteered knows the kinds" in read_json(tmp_path / "animals.json")["note"]
    assert told == ["lion"] * 5 + ["tiger"] * 4 and list(rows) == ["real", "steered", "copier"]
    names = sorted(path.stem for path in twelve.iterdir())
    for is_lion, again in ((lambda k: k < 6, []), (lambda k: k >= 6, ["tiger"] * 5 + ["lion"] * 4)):
        lines = [f"{name},{int(is_lion(k))},0" for k, name in enumerate(names)]
        (twelve / "factors.csv").write_text("\n".join(["name,lion,turn", *lines]))
        told.clear()
        sheet.make([steered, copier], twelve, tmp_path, reuse=True)
        assert told == again                                 # a row that knew other kinds is made anew


def test_findings_rank_exact_values_beside_exact_ones_and_levels_beside_the_same_levels():
    nothing = dict.fromkeys(("view", "bits", "level_bits", "bound", "spread", "copying"))
    rows = [nothing | {"model": "real", "spread": 1.0, "copying": 1.0},
            nothing | {"model": "A", "bits": 7.0, "bound": "exact", "spread": 0.5, "copying": 0.8},
            nothing | {"model": "B", "bits": 5.0, "bound": "a lower bound", "spread": 0.1, "copying": 0.7},
            nothing | {"model": "C", "bits": 6.0, "bound": "exact", "spread": 0.7, "copying": 0.1},
            *(nothing | {"model": name, "view": view, "level_bits": bits, "bound": "exact"}
              for name, view, bits in (("D", "8 x 8", 2.0), ("E", "16 x 16", 0.5), ("F", "8 x 8", 1.0)))]
    assert notes.findings(rows) == (
        "Held-out images cost, in bits/dim of an exact density, C 6.00, A 7.00. In levels (16 x 16): E "
        "0.50. In levels (8 x 8): F 1.00, D 2.00. The least diverse samples, as pair distance over that of "
        "real images: B 0.10, A 0.50, C 0.70. The nearest to training images: C 0.10, B 0.70, A 0.80; "
        "fresh real ones 1.")


def test_samples_are_measured_beside_what_of_real_images_they_can_show(twelve, tmp_path, monkeypatch):
    def silhouettes(images):
        return torch.where(images.mean(1, keepdim=True) > 0, 1.0, -1.0).expand(-1, 3, -1, -1)

    def make(**more):
        copier = types.SimpleNamespace(__name__="zoo.copier", **more,
                                       animals=lambda data, seed: Copies(silhouettes(data)))
        sheet.make([copier], twelve, tmp_path)
        with Image.open(tmp_path / "animals.png") as picture:
            height.append(picture.height)
        return read_json(tmp_path / "animals.json")["rows"][1]

    height = []
    monkeypatch.setattr(sheet, "SIDE", 16)
    assert make(seen=silhouettes)["copying"] == pytest.approx(0, abs=5e-3)
    assert make()["copying"] > 0.5                 # black and white is far from any picture in colour
    assert height[0] - height[1] == 16 + 2                  # a row more, of what it saw


def test_what_is_new_cannot_be_told_if_all_that_is_held_out_was_learned(twelve, tmp_path, monkeypatch):
    names = sorted(path.name for path in twelve.iterdir())
    for held in names[3::4]:
        (twelve / held).write_bytes((twelve / names[0]).read_bytes())
    copier = types.SimpleNamespace(__name__="zoo.copier", animals=lambda data, seed: Copies(data))
    monkeypatch.setattr(sheet, "SIDE", 16)
    (twelve / names[3]).write_bytes((twelve / names[1]).read_bytes())
    sheet.make([copier], twelve, tmp_path)
    assert read_json(tmp_path / "animals.json")["rows"][1]["copying"] is None
