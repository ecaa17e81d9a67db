"""report/showcase.py: the tables that it writes into the README, and where."""
import importlib.util
import json

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from runs.files import write_csv
from runs.options import UserError
from runs.tables import replace_between

spec = importlib.util.spec_from_file_location("showcase", ROOT / "report" / "showcase.py")
showcase = importlib.util.module_from_spec(spec)
spec.loader.exec_module(showcase)


@pytest.fixture
def run(tmp_path):
    """A run folder with the files that the tables are made of."""
    for start, psnr in (("warm", 33.24), ("cold", 31.08)):
        (tmp_path / start).mkdir()
        (tmp_path / start / "metrics.json").write_text(json.dumps({
            "psnr": psnr, "sample_nearest_psnr": 28.46, "sample_nearest_psnr_p10": 23.21,
            "z_mean_square": 1.19, "seconds": 152.4}))
    folder = tmp_path / "evaluation"
    folder.mkdir()
    write_csv(folder / "summary.csv", [
        {"quantity": "log p at ML σ, mean [nats]", "warm start": 86024.3, "cold start": 77059.0},
        {"quantity": "bits per dimension at ML σ", "warm start": 4.469, "cold start": 4.733}])
    write_csv(folder / "linear.csv", [
        {"model": "ABP, warm start", "d": 2, "train_psnr": 33.24, "train_log_p": 86024.3,
         "train_bits": 4.469},
        {"model": "PCA", "d": 8, "train_psnr": 23.98, "train_log_p": 30851, "train_bits": 6.089}])
    write_csv(folder / "holdout_summary.csv", [
        {"model": "ABP", "d": 2, "train_psnr": 28.0, "heldout_psnr": 12.7, "heldout_log_p": -789218.2},
        {"model": "nearest training image", "d": None, "train_psnr": None, "heldout_psnr": 11.6,
         "heldout_log_p": None}])
    write_csv(folder / "occlusion.csv", [
        {"mask": "pepper:0.9", "hidden": 90.01, "mae": 20.63, "mae_nearest": 21.45, "mae_mean": 57.95}])
    for start in ("warm", "cold"):
        write_csv(folder / f"warm_cold_{start}.csv", [
            {"over seeds": "mean", "psnr": 30.0, "sample_nearest_psnr": 24.0, "z_mean_square": 1.1,
             "passes": 8160.0},
            {"over seeds": "std", "psnr": 0.25, "sample_nearest_psnr": 0.5, "z_mean_square": 0.05,
             "passes": 0.0}])
    (tmp_path / "config.json").write_text(json.dumps({"machine": "a CPU", "threads": 2, "precision": "bf16"}))
    (tmp_path / "showcase.json").write_text(json.dumps({"python abp.py": 330.0}))
    return tmp_path


def test_every_table_has_its_place_in_the_readme_and_says_what_the_run_says(run):
    text = showcase.README.read_text(encoding="utf-8")
    tables = showcase.tables(run)
    for name, table in tables.items():
        text = replace_between(text, name, table, "README.md")
        assert replace_between(text, name, table, "README.md") == text
    for row in ("| PSNR of the reconstructions | 33.2 dB | 31.1 dB |",
                "[nats] / bits per dimension | 86,024 / 4.47 | 77,059 / 4.73 |",
                "| ABP, warm start | 2 | 33.2 dB | 86,024 | 4.47 |",
                "| ABP | 2 | 28.0 dB | 12.7 dB | -789,218 |",
                "| nearest training image |  | – | 11.6 dB | – |",
                "| `pepper:0.9` | 90 % | 20.6 | 21.4 | 58.0 |",
                "| warm start | 30.00 ± 0.25 | 24.00 ± 0.50 | 1.10 ± 0.05 | 8,160 |",
                "| `python abp.py` | 5.5 min |", "on a CPU, 2 threads, bf16."):
        assert row + "\n" in text or row in text.replace("\n", " ")
    assert "| PCA | 8 |" not in tables["likelihood"]


def test_what_was_not_computed_keeps_its_table(run):
    (run / "evaluation" / "occlusion.csv").unlink()
    assert set(showcase.tables(run)) == {"results", "likelihood", "times", "holdout", "warm-cold"}


def test_a_readme_without_the_marker_is_refused():
    with pytest.raises(UserError, match="README.md: must hold <!-- results -->"):
        replace_between("nothing", "results", "table", "README.md")


def test_commands_whose_results_are_there_are_not_run_again(run, capsys):
    (run / "metrics.md").touch()
    showcase.compute(run, "python abp.py", "metrics.md", "no_such_program.py")
    assert capsys.readouterr().out == "" and showcase.times(run) == {"python abp.py": 330.0}
    with pytest.raises(UserError, match="python other.py: failed"):
        showcase.compute(run, "python other.py", "other.md", "no_such_program.py")


def test_pictures_are_no_wider_than_they_are_shown(tmp_path):
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "a.png")
    for name in ("b.png", "b.jpg"):
        showcase.shrink(tmp_path / "a.png", tmp_path / name, 20)
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (20, 10)


def test_movies_lose_frames_and_no_time(tmp_path):
    frames = [Image.fromarray(np.full((20, 40, 3), 40 * k, np.uint8)) for k in range(5)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:],
                   duration=[10, 20, 30, 40, 50])
    showcase.shrink_movie(tmp_path / "a.webp", tmp_path / "b.webp", 10, 2)
    with Image.open(tmp_path / "b.webp") as movie:
        assert movie.size == (10, 5) and movie.n_frames == 3 and movie.info["loop"] == 0
        durations = []
        for k in range(3):
            movie.seek(k)
            movie.load()
            durations.append(movie.info["duration"])
            assert abs(int(movie.convert("RGB").getpixel((5, 2))[0]) - 80 * k) < 4
    assert durations == [30, 70, 50]
