"""The LaTeX report: texts escaped, macros complete, and a PDF without a gap from whatever a run may be."""
import dataclasses
import json
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
from evaluation.start import QUANTITIES
from runs import latex, manuscript, recorder
from utils import plot_stats, save_recon
from zoo import fa, sheet

SOURCE = (ROOT / "report" / "report.tex").read_text()
NAMES = "".join(map(chr, range(32, 127))) + "".join(map(chr, range(0xA1, 0x100))) + "".join(latex.LETTERS)


@pytest.fixture(scope="module")
def latexmk():
    """The command; without it these tests are skipped, or fail where REQUIRE_LATEX is set."""
    if shutil.which("latexmk"):
        return "latexmk"
    message = "needs LaTeX: sudo apt-get install latexmk texlive-latex-recommended lmodern"
    pytest.fail(message) if os.environ.get("REQUIRE_LATEX") else pytest.skip(message)


@pytest.fixture(scope="module")
def evaluated(faces, tmp_path_factory):
    """A finished and evaluated run of both starts, output/001 beside report/, and a sheet of the zoo."""
    folder = tmp_path_factory.mktemp("house") / "output" / "001"
    data = tmp_path_factory.mktemp("data_of the zoo") / "12 faces"
    data.mkdir()
    for k, face in enumerate([*faces.iterdir()] * 2):
        shutil.copy(face, data / f"{'lion' if k % 3 else 'tiger'}_{k}.png")
    sheet.make([fa], data, folder.parent / "zoo")
    assert abp.main(command(faces, f"--out={folder}")) == 0
    assert __main__.main([str(folder), "--n_steps", "20", "--n_shown", "2"]) == 0
    return folder


@pytest.fixture
def house(evaluated, tmp_path):
    """A copy of the run to spoil: tmp_path/output/001."""
    shutil.copytree(evaluated.parent, tmp_path / "output")
    return tmp_path


def build(house, folder=None, *options):
    """latexmk in house/report -> (exit status, what it printed, the log); folder: what latest.tex names."""
    report = house / "report"
    report.mkdir(exist_ok=True)
    for name in ("report.tex", "latexmkrc"):
        shutil.copy(ROOT / "report" / name, report)
    if folder:
        recorder.point_report_to(folder, house / "output")
    done = subprocess.run(["latexmk", "-pdf", *options, "report.tex"], cwd=report, timeout=120, stdout=-1,
                          stderr=-2, stdin=subprocess.DEVNULL, env=os.environ | {"max_print_line": "1000"})
    log = (report / "report.log").read_text(encoding="utf-8", errors="replace")
    return done.returncode, done.stdout.decode(errors="replace"), log


def check(house, status, log, boxes=0):
    """The PDF is there and whole, with so many boxes in place of figures."""
    assert status == 0 and (house / "report" / "report.pdf").stat().st_size > 50_000, log[-3000:]
    assert "undefined" not in log and "multiply defined" not in log and "??" not in log
    wide = [float(x) for x in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0) <= 1, wide
    assert "Missing character" not in log and "Float too large" not in log
    assert len(set(re.findall(r"report Warning: Missing (\S+);", log))) == boxes


# ---- texts

@pytest.mark.parametrize("text, expected", [
    ("face_01.png", r"face\_01.png"), ("50 % & #1 {$}", r"50 \% \& \#1 \{\$\}"),
    ("a~b^c\\d", r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d"),
    ("--folds", r"-{}-folds"), ("σ²", r"$\sigma$$^2$"), ("e\u0301", "é"), ("a\tb\nc", "a b c"),
    ("狮", r"\textless{}U+72EE\textgreater{}")])
def test_plain_text_is_escaped(text, expected):
    assert latex.escape(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("-0.5", "$-0.5$"), ("3", "3"), ("1.2e-05", r"$1.2 \times 10^{-5}$"), ("-1e+10", r"$-1 \times 10^{10}$"),
    ("86,024", "86,024"), ("a-1", "a-1"), ("mean of z²", "mean of $z$$^2$"), ("z_1", "$z_1$"),
    ("z.png", "z.png")])
def test_numbers_are_set_as_numbers(text, expected):
    assert latex.number(text) == expected


def test_long_paths_may_break_and_short_ones_stay_as_they_are():
    assert r"\allowbreak" not in latex.escape("output/001", breakable=True)
    assert latex.escape("/a_b" * 6, breakable=True).count(r"\allowbreak{}") == 23


def test_every_text_is_printed(latexmk, tmp_path):
    """All that a file name may hold goes through pdfLaTeX, also where a line of a table begins with it."""
    table = latex.tabular(["[name]", "a title of several words [nats]"],
                          [["[a", "1"], ["*b", "-2"], [NAMES[:60], "nan"], [NAMES, "3e5"]])
    lines = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}", r"\usepackage{lmodern,booktabs}",
             r"\begin{document}", latex.escape(NAMES + "狮子🦁", breakable=True), r"\par\tiny", table,
             r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run([latexmk, "-pdf", "-interaction=nonstopmode", "all.tex"], cwd=tmp_path, timeout=60,
                          capture_output=True)
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert done.returncode == 0 and "! " not in log and "Missing character" not in log


# ---- macros and tables

def defined(path):
    return dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}", path.read_text()))


def test_every_number_of_a_run_has_a_macro(evaluated):
    values = defined(evaluated / "macros.tex")
    for field in dataclasses.fields(abp.Config):
        assert latex.macro_name("option", field.name) in values
    for start in ("warm", "cold"):
        metrics = json.loads((evaluated / start / "metrics.json").read_text())
        assert all(latex.macro_name(start, key) in values for key in metrics)
        assert float(values[f"{start}Psnr"]) == pytest.approx(metrics["psnr"], abs=0.006)
        assert values[f"{start}HalfFile"] == "0003_recon.png"
    assert values["optionImgSize"] == "16" and values["nImages"] == "6" and values["threads"].isdigit()
    assert values["machine"] and values["runName"].endswith("1")
    theirs = defined(evaluated / "evaluation" / "macros.tex")
    assert all(latex.macro_name(start, key) in theirs for start in ("warm", "cold")
               for key in QUANTITIES if key not in ("psnr", "mse"))
    assert theirs["evaluatedEpochs"] == "6"


def test_no_macro_is_defined_twice_and_all_have_letters_only(evaluated):
    text = "".join((evaluated / name).read_text() for name in (
        "macros.tex", "captions.tex", "evaluation/macros.tex", "evaluation/captions.tex"))
    names = re.findall(r"^\\newcommand\{\\(.*?)\}", text, re.M)
    assert len(names) == len(set(names)) == text.count("\n")
    assert all(re.fullmatch("[A-Za-z]+", name) for name in names)


def test_settings_and_libraries_are_complete(evaluated):
    settings = (evaluated / "settings.tex").read_text()
    for field in dataclasses.fields(abp.Config):
        assert rf"\texttt{{{latex.escape(field.name)}}}" in settings
    assert r"\textbf{16}" in settings and r"\textbf{1}" not in settings     # img_size differs, seed does not
    required = (ROOT / "requirements.txt").read_text().split()
    assert list(manuscript.LIBRARIES) == required
    libraries = (evaluated / "libraries.tex").read_text()
    assert all(f"{name} & " in libraries for name in required) and "Python" in libraries


@pytest.mark.parametrize("value, text", [(1e-7, "0.0000001"), (10**6, "1000000"), (4.5e-3, "0.0045"),
                                         ("", "none"), ("a_b", r"a\_b"), (3.0, "3")])
def test_options_are_plain_numbers(value, text):
    assert manuscript.option_text(value) == text


def test_every_file_and_caption_of_the_report_exists(evaluated):
    for start in ("warm", "cold"):
        text = re.sub("^%.*", "", SOURCE, flags=re.M).replace(r"\of{HalfFile}", "0003_recon.png")
        text = re.sub(r"\\(main)?start\b ?", start, text)
        files = re.findall(r"\\(?:photo(?:\[[\d.]+\])?|drawing|tablefile)\{([\w./]+)\}", text)
        optional = {"evaluation/holdout_summary.tex", "evaluation/occlusion.tex", "evaluation/warm_cold.pdf",
                    "evaluation/warm_cold_seeds.tex"}
        assert len(files) > 15
        for name in set(files) - optional:
            if "factors" not in name:                               # these faces have no factors.csv
                assert (evaluated / name).is_file(), name
        captions = defined(evaluated / "captions.tex") | defined(evaluated / "evaluation" / "captions.tex")
        for name in re.findall(r"\\generated\{(\w+)\}", text):
            assert name in captions or "Factors" in name, name


# ---- the PDF

def test_the_report_is_built_whole(latexmk, house):
    status, output, log = build(house, house / "output" / "001")
    check(house, status, log)
    assert "LaTeX Warning" not in log


def test_another_run_can_be_named(latexmk, house):
    folder = house / "output" / "001"
    status, _, log = build(house, None, rf"-usepretex=\newcommand{{\run}}{{{folder}}}")
    check(house, status, log)


def test_a_missing_figure_leaves_a_box_and_comes_back(latexmk, house):
    folder = house / "output" / "001"
    (folder / "warm" / "recon.png").rename(house / "kept.png")
    (folder / "evaluation" / "summary.tex").unlink()
    status, output, log = build(house, folder)
    check(house, status, log, boxes=2)
    assert "Missing ../output/001/warm/recon.png; make it with: python abp.py --resume" in log
    assert "summary.tex; make it with: python evaluate.py" in log
    (house / "kept.png").rename(folder / "warm" / "recon.png")
    status, output, log = build(house)
    check(house, status, log, boxes=1)


def test_a_run_that_was_not_evaluated_says_how_and_is_built_anew_after_it_was(latexmk, house):
    folder = house / "output" / "001"
    (folder / "evaluation").rename(house / "kept")
    status, output, log = build(house, folder)
    check(house, status, log, boxes=1)
    assert "make it with: python evaluate.py" in log
    (house / "kept").rename(folder / "evaluation")
    status, output, log = build(house)
    check(house, status, log)
    macros = folder / "macros.tex"                                    # outdated, once it was trained further
    macros.write_text(macros.read_text().replace(r"{\optionNEpochs}{6}", r"{\optionNEpochs}{9}"))
    status, output, log = build(house)
    check(house, status, log, boxes=1)


def test_nothing_but_one_line_without_a_finished_run(latexmk, house):
    status, output, log = build(house)
    assert status != 0 and "! report.tex: no finished run (../output/latest.tex is missing)" in log
    assert "python abp.py" in log and not (house / "report" / "report.pdf").exists()
    assert len(re.findall("^! ", log.split("*** (cannot")[0], re.M)) <= 2
    (house / "output" / "001" / "macros.tex").unlink()
    status, output, log = build(house, house / "output" / "001")
    assert status != 0 and "../output/001 is no finished run" in log.replace("\n", "")


@pytest.mark.parametrize("name", ["my run_1", "50% #2 & $3 ~^", "löwe"])
def test_a_run_folder_may_have_any_name(latexmk, house, name):
    folder = (house / "output" / "001").rename(house / "output" / name)
    status, output, log = build(house, folder)
    check(house, status, log)


def test_a_name_that_tex_cannot_read_is_refused_in_words(latexmk, house):
    folder = (house / "output" / "001").rename(house / "output" / "a{b")
    status, output, log = build(house, folder)
    assert status != 0 and "rename the run's folder" in " ".join(log.split())


@pytest.mark.parametrize("options", [{"start": "warm"}, {"start": "cold", "nz": 3}, {"nz": 1},
                                     {"mask": "pepper:0.5", "start": "warm"},
                                     {"langevin_step_size": 0.02, "langevin_num_steps": 2, "prior_draws": 0,
                                      "z_noise": 0, "sigma_start": 1, "cold_sigma": 50, "n_plot": 100}])
def test_every_kind_of_run_has_its_report(latexmk, faces, tmp_path, options):
    folder = tmp_path / "output" / "001"
    assert abp.main(command(faces, f"--out={folder}", **options | {"n_epochs": 4})) == 0
    assert not (tmp_path / "output" / "latest.tex").exists()         # it lies in no output/ of the program's
    assert __main__.main([str(folder), "--n_steps", "20", "--n_shown", "1"]) == 0
    status, output, log = build(tmp_path, folder)
    check(tmp_path, status, log, boxes=1)
    assert "Missing ../output/zoo/animals.tex; make it with: python -m zoo all animals" in log


# ---- figures

def test_figures_are_the_same_each_time_and_in_computer_modern(tmp_path):
    history = {"warm": [{"epoch": k, "loss": 10.0 / k, "psnr": 10.0 + k} for k in (1, 2, 3)]}
    paths = [tmp_path / name for name in ("a.pdf", "b.pdf")]
    for path in paths:
        plot_stats(history, [path])
    assert paths[0].read_bytes() == paths[1].read_bytes() and b"Cmr10" in paths[0].read_bytes()


def test_labels_of_reconstructions_have_eight_points_in_print(tmp_path):
    save_recon({"image": torch.zeros(12, 3, 128, 128)}, tmp_path / "recon.png")
    text = 12 * 130 * 8 / (72 * 6.6)                                  # pixels, of 8 points
    sheet = np.asarray(Image.open(tmp_path / "recon.png").convert("L"))
    ink = (sheet[:, :sheet.shape[1] - 12 * 130] < 128).any(0).nonzero()[0]       # the label reads upwards
    assert 0.6 * text < np.ptp(ink) < 1.1 * text
