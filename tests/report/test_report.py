"""The LaTeX report: escaped text, tables and numbers of a run, and the PDF of any run."""
import dataclasses
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import ROOT, command
from PIL import Image

import abp
from evaluation import __main__
from runs import latex, manuscript, tables
from runs.files import read_json
from utils import plot_stats, save_recon

SOURCE = (ROOT / "report" / "report.tex").read_text()
NAMES = "".join(map(chr, [*range(32, 127), *range(0xA1, 0x100)])) + "".join(latex.LETTERS)
OPTIONAL = {"evaluation/holdout_summary.tex", "evaluation/occlusion.tex", "evaluation/factors.tex",
            "evaluation/warm_cold_seeds.tex"}        # not in the fixture: needs trainings or factors


@pytest.fixture(scope="module")
def latexmk():
    """The command; without it these tests are skipped, or fail where REQUIRE_LATEX is set."""
    if shutil.which("latexmk"):
        return "latexmk"
    message = "needs LaTeX: sudo apt-get install latexmk texlive-latex-recommended lmodern"
    pytest.fail(message) if os.environ.get("REQUIRE_LATEX") else pytest.skip(message)


@pytest.fixture(scope="module")
def evaluated(faces, tmp_path_factory):
    """A finished and evaluated run of both starts, output/001, and a table and sheet of the zoo."""
    folder = tmp_path_factory.mktemp("house") / "output" / "001"
    assert abp.main(command(faces, f"--out={folder}")) == 0
    assert __main__.main([str(folder), "--n_steps", "20", "--n_shown", "1"]) == 0
    zoo = folder.parent / "zoo"
    zoo.mkdir()
    tables.write_tables(zoo, "animals", [{"model": "VAE", "bits": 5.2}, {"model": "GAN", "bits": None}])
    Image.new("RGB", (200, 100)).save(zoo / "animals.png")
    return folder


@pytest.fixture
def house(evaluated, tmp_path):
    """A copy of the run, tmp_path/output/001."""
    shutil.copytree(evaluated.parent, tmp_path / "output")
    return tmp_path


def build(house, *options):
    """latexmk in house/report -> (exit status, log)."""
    shutil.copytree(ROOT / "report", house / "report", dirs_exist_ok=True,
                    ignore=lambda _, names: set(names) - {"report.tex", "run.sty", "latexmkrc"})
    done = subprocess.run(["latexmk", "-pdf", *options, "report.tex"], cwd=house / "report",
                          timeout=120, stdout=-1, stderr=-2, stdin=subprocess.DEVNULL,
                          env=os.environ | {"max_print_line": "1000"})
    return done.returncode, (house / "report" / "report.log").read_text(errors="replace")


def check(house, status, log, *left_out):
    """The PDF is whole and small, without wide lines, and only these files were found missing."""
    assert status == 0 and "undefined" not in log and "multiply defined" not in log, log[-3000:]
    wide = [float(x) for x in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0) <= 1 and "Float too large" not in log
    assert "Missing character" not in log
    pages, size = map(int, re.search(r"\((\d+) pages, (\d+) bytes", log).groups())
    assert pages <= 8 and 50_000 < size < 5e6
    missing = {name.split(" on input")[0] for name in re.findall("left out for want of (.*)", log)}
    assert {name for name in missing - OPTIONAL if name not in left_out} == set()
    assert all(name in missing for name in left_out)


# ---- text

@pytest.mark.parametrize("text, expected", [
    ("face_01.png", r"face\_01.png"), ("50 % & #1 {$}", r"50 \% \& \#1 \{\$\}"),
    ("a~b^c\\d", r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d"),
    ("--folds", r"-{}-folds"), ("σ²", r"$\sigma$$^2$"), ("e\u0301", "é"), ("a\tb\nc", "a b c"),
    ("狮", r"\textless{}U+72EE\textgreater{}")])
def test_plain_text_is_escaped(text, expected):
    assert latex.escape(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("-0.5", "$-0.5$"), ("3", "3"), ("1.2e-05", r"$1.2 \times 10^{-5}$"),
    ("-1e+10", r"$-1 \times 10^{10}$"), ("86,024", "86,024"), ("a-1", "a-1"),
    ("mean of z²", "mean of $z$$^2$"), ("z_1", "$z_1$"), ("z.png", "z.png")])
def test_numbers_are_set_as_numbers(text, expected):
    assert latex.number(text) == expected


def test_only_long_paths_may_break():
    assert r"\allowbreak" not in latex.escape("output/001", breakable=True)
    assert latex.escape("/a_b" * 6, breakable=True).count(r"\allowbreak{}") == 23


def test_any_text_compiles(latexmk, tmp_path):
    table = latex.tabular(["[name]", "a title of several words [nats]"],
                          [["[a", "1"], ["*b", "-2"], [NAMES[:60], "nan"], [NAMES, "3e5"]])
    lines = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}",
             r"\usepackage{lmodern,booktabs}", r"\begin{document}",
             latex.escape(NAMES + "狮子🦁", breakable=True), r"\par\tiny", table, r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run([latexmk, "-pdf", "-interaction=nonstopmode", "all.tex"], cwd=tmp_path,
                          timeout=60, capture_output=True)
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert done.returncode == 0 and "! " not in log and "Missing character" not in log


# ---- tables and numbers

def test_tables_in_three_formats(tmp_path):
    rows = [{"name": "a|b", "x": 0.1 + 0.2, "none": None}, {"name": "c", "x": 2.0, "none": None}]
    tables.write_tables(tmp_path, "t", rows, {"x": "value"}, {"x": ".2f"})
    assert tables.read_csv(tmp_path / "t.csv")[0] == {"name": "a|b", "x": str(0.1 + 0.2), "none": ""}
    assert "| a\\|b | 0.30 | – |" in (tmp_path / "t.md").read_text(encoding="utf-8")
    assert r"c & 2.00 \tabularnewline" in (tmp_path / "t.tex").read_text()       # no empty column


def test_layers_of_any_module():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = torch.nn.Linear(3, 48), torch.nn.ReLU()
            self.conv = torch.nn.Conv2d(3, 3, (3, 5), padding=(1, 2))
            self.offset = torch.nn.Parameter(torch.zeros(3, 1, 1))

        def forward(self, z):
            x = self.act(self.first(z)).view(-1, 3, 4, 4)
            return self.conv(self.conv(x)) + self.offset

    lines = manuscript.layers_table(Net(), torch.zeros(1, 3)).splitlines()[4:-2]
    assert [line.removesuffix(r" \tabularnewline").split(" & ") for line in lines] == [
        ["Linear, ReLU", "", "48", "192"],
        ["Conv2d, Conv2d", "(3, 5)", r"3 $\times$ 4 $\times$ 4", "138"],
        ["other parameters", "", "", "3"], ["all layers", "", "", "333"]]


def test_every_option_and_metric_has_one_macro(evaluated):
    lines = (evaluated / "report" / "macros.tex").read_text().splitlines()
    pairs = [re.fullmatch(r"\\newcommand\{\\([A-Za-z]+)\}\{(.*)\}", line).groups() for line in lines]
    values = dict(pairs)
    assert len(values) == len(pairs)
    settings = (evaluated / "report" / "settings.tex").read_text()
    for field in dataclasses.fields(abp.Config):
        assert latex.macro_name("option", field.name) in values
        assert (rf"\texttt{{{latex.escape(field.name)}}}" in settings) == (
            field.name not in manuscript.PATHS)
    for start in ("warm", "cold"):
        metrics = read_json(evaluated / start / "metrics.json")
        assert all(latex.macro_name(start, key) in values for key in metrics)
        assert float(values[f"{start}Psnr"]) == pytest.approx(metrics["psnr"], abs=0.006)
    assert values["optionImgSize"] == "16" and values["nImages"] == "6"
    assert r"\textbf{\boldmath 16}" in settings and r"\boldmath 0.0045}" not in settings
    assert all(f"{name} " in values["libraries"] for name in ("Python", *manuscript.LIBRARIES))
    assert list(manuscript.LIBRARIES) == (ROOT / "requirements.txt").read_text().split()


def test_the_report_names_files_and_macros_of_a_run(evaluated):
    text = re.sub("^%.*", "", SOURCE, flags=re.M)
    files = re.findall(r"\\begin\{(?:needs|runfigure|runtable)\}\{([^\\}]+)\}", text)
    files = {name for group in files for name in group.split(",")}
    assert len(files) > 15 and all((evaluated / name).is_file() for name in files - OPTIONAL)
    pictures = re.findall(r"\\includegraphics\[.*?\]\{([^\\}]+)\}", text)
    for name in pictures:
        assert list(evaluated.glob(f"report/{name}.jpg")) or list(evaluated.glob(f"{name}.*"))
    macros = (evaluated / "report" / "macros.tex").read_text()
    for name in re.findall(r"\\((?:option|warm|cold)[A-Z]\w*|n[A-Z]\w+)", text):
        assert rf"\newcommand{{\{name}}}" in macros


def test_the_report_takes_the_newest_run_of_both_starts(tmp_path):
    for name in ("a", "b b_1", "only_warm", "100%", "{"):
        for start in ("warm", "cold")[:1 if name == "only_warm" else 2]:
            (tmp_path / "output" / name / start).mkdir(parents=True)
            (tmp_path / "output" / name / start / "metrics.json").touch()
        manuscript.point_report_to(tmp_path / "output" / name, tmp_path / "output")
        manuscript.point_report_to(tmp_path / "output" / name, tmp_path / "elsewhere")
    text = (tmp_path / "output" / "latest.tex").read_text()
    assert text == "\\edef\\run{\\detokenize{../output/b b_1}}\n"
    assert not (tmp_path / "elsewhere").exists()


# ---- the PDF

@pytest.mark.parametrize("name", ["001", "my run_1", "löwe"])
def test_the_newest_run_is_built(latexmk, house, name):
    folder = (house / "output" / "001").rename(house / "output" / name)
    manuscript.point_report_to(folder, house / "output")
    status, log = build(house)
    check(house, status, log)
    assert "LaTeX Warning" not in log


def test_missing_parts_are_left_out(latexmk, house):
    folder = house / "output" / "001"
    (folder / "report" / "warm_recon.jpg").unlink()
    (folder / "evaluation" / "summary.tex").unlink()
    shutil.rmtree(house / "output" / "zoo")
    named = rf"-usepretex=\newcommand{{\run}}{{{folder}}}"
    missing = ("report/warm_recon.jpg", "evaluation/summary.tex", "../output/zoo/animals.tex")
    check(house, *build(house, named), *missing)
    (folder / "evaluation" / "macros.tex").write_text(r"\newcommand{\evaluatedEpochs}{2}")
    status, log = build(house, named)
    check(house, status, log, *missing, "evaluation/warm/nearest.png")
    assert "the evaluation is of 2 epochs and left out" in log


def test_one_line_without_a_finished_run(latexmk, house):
    status, log = build(house)
    assert status != 0 and "! report.tex: no finished run of both starts" in " ".join(log.split())
    assert not (house / "report" / "report.pdf").exists()
    (house / "output" / "001" / "report" / "macros.tex").unlink()
    manuscript.point_report_to(house / "output" / "001", house / "output")
    status, log = build(house)
    assert status != 0 and "../output/001 is no finished run" in log.replace("\n", "")


@pytest.mark.parametrize("options", [{"start": "warm", "nz": 1}, {"nz": 3, "mask": "pepper:0.5"}])
def test_other_runs_have_a_report(latexmk, faces, tmp_path, options):
    folder = tmp_path / "run"
    assert abp.main(command(faces, f"--out={folder}", **options | {"n_epochs": 2})) == 0
    status, log = build(tmp_path, rf"-usepretex=\newcommand{{\run}}{{{folder}}}")
    left_out = [name for name in ("evaluation/summary.tex", "report/cold_recon.jpg")
                if name in log]
    assert ("report/cold_recon.jpg" in left_out) == ("start" in options)
    assert status == 0 and "undefined" not in log


# ---- figures

def test_figures_are_reproducible_and_in_computer_modern(tmp_path):
    history = {"warm": [{"epoch": k, "loss": 10.0 / k, "psnr": 10.0 + k} for k in (1, 2, 3)]}
    paths = [tmp_path / name for name in ("a.pdf", "b.pdf")]
    for path in paths:
        plot_stats(history, [path])
    assert paths[0].read_bytes() == paths[1].read_bytes() and b"Cmr10" in paths[0].read_bytes()


def test_labels_of_reconstructions_have_eight_points_in_print(tmp_path):
    save_recon({"image": torch.zeros(12, 3, 128, 128)}, tmp_path / "recon.png")
    text = 12 * 130 * 8 / (72 * 6.6)                       # pixels of 8 points at 6.6 inches
    sheet = np.asarray(Image.open(tmp_path / "recon.png").convert("L"))
    ink = (sheet[:, :sheet.shape[1] - 12 * 130] < 128).any(0).nonzero()[0]    # of the upright label
    assert 0.6 * text < np.ptp(ink) < 1.1 * text
