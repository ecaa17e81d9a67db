"""The LaTeX report: escaped text, tables and numbers of a run, and the PDF of any run."""
import dataclasses
import os
import re
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, command
from PIL import Image

import abp
from evaluation import __main__
from runs import latex, manuscript, tables
from runs.files import read_json

NAMES = "".join(map(chr, [*range(32, 127), *range(0xA1, 0x100)])) + "".join(latex.LETTERS)
OPTIONAL = {f"evaluation/{name}.tex" for name in (      # of more trainings, or known factors
    "holdout_summary", "occlusion", "warm_cold_seeds", "factors")}
needs_latex = pytest.mark.skipif(
    not shutil.which("latexmk") and "REQUIRE_LATEX" not in os.environ,
    reason="needs LaTeX: sudo apt-get install latexmk texlive-latex-recommended lmodern")


@pytest.fixture(scope="module")
def evaluated(faces, tmp_path_factory):
    """An evaluated run of both starts, output/001, and a table and a sheet of the zoo."""
    folder = tmp_path_factory.mktemp("project") / "output" / "001"
    assert abp.main(command(faces, f"--out={folder}")) == 0
    assert __main__.main([str(folder), "--n_steps", "20", "--n_shown", "1"]) == 0
    zoo = folder.parent / "zoo"
    zoo.mkdir()
    tables.write_tables(zoo, "animals", [{"model": "VAE", "bits": 5.2}])
    Image.new("RGB", (200, 100)).save(zoo / "animals.png")
    return folder


@pytest.fixture
def project(evaluated, tmp_path):
    """A folder with a copy of the run in output/001."""
    shutil.copytree(evaluated.parent, tmp_path / "output")
    return tmp_path


def build(project, *options):
    """latexmk in project/report -> (exit status, log)."""
    (project / "report").mkdir(exist_ok=True)
    for name in ("report.tex", "run.sty", "latexmkrc"):
        shutil.copy(ROOT / "report" / name, project / "report")
    done = subprocess.run(["latexmk", "-pdf", *options, "report.tex"], cwd=project / "report",
                          timeout=120, stdout=-1, stderr=-2, stdin=subprocess.DEVNULL,
                          env=os.environ | {"max_print_line": "1000"})
    return done.returncode, (project / "report" / "report.log").read_text(errors="replace")


def check(status, log, *left_out):
    """The PDF is complete and small, without overfull lines; only `left_out` are missing."""
    assert status == 0, log[-3000:]
    for fault in ("undefined", "multiply defined", "Float too large", "Missing character"):
        assert fault not in log
    assert all(float(x) <= 1 for x in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log))
    pages, size = map(int, re.search(r"\((\d+) pages, (\d+) bytes", log).groups())
    assert pages <= 8 and 50_000 < size < 5e6
    assert set(re.findall("left out for want of (.*) on input", log)) - OPTIONAL == set(left_out)


@pytest.mark.parametrize("function, text, expected", [
    (latex.escape, "50 % & #1 {$}_", r"50 \% \& \#1 \{\$\}\_"),
    (latex.escape, "a~b^c\\d", r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d"),
    (latex.escape, "--folds", r"-{}-folds"), (latex.escape, "σ²", r"$\sigma$$^2$"),
    (latex.escape, "e\u0301\ta\n", "é a "),
    (latex.escape, "狮", r"\textless{}U+72EE\textgreater{}"),
    (latex.number, "-0.5", "$-0.5$"), (latex.number, "1.2e-05", r"$1.2 \times 10^{-5}$"),
    (latex.number, "86,024", "86,024"), (latex.number, "a-1", "a-1"),
    (latex.number, "mean of z²", "mean of $z$$^2$"), (latex.number, "z_1", "$z_1$"),
    (latex.number, "z.png", "z.png")])
def test_text_and_numbers_as_latex(function, text, expected):
    assert function(text) == expected


@needs_latex
def test_any_text_compiles(tmp_path):
    rows = [["[a", "1"], ["*b", "-2"], [NAMES[:60], "nan"], [NAMES, "3e5"]]
    lines = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}",
             r"\usepackage{lmodern,booktabs}", r"\begin{document}",
             latex.escape(NAMES + "狮子🦁", breakable=True), r"\par\tiny",
             latex.tabular(["[name]", "a title of several words [nats]"], rows), r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(lines), encoding="utf-8")
    subprocess.run(["latexmk", "-pdf", "-interaction=nonstopmode", "all.tex"], cwd=tmp_path,
                   timeout=60, capture_output=True, check=True)
    assert "Missing character" not in (tmp_path / "all.log").read_text(errors="replace")


def test_tables_in_three_formats(tmp_path):
    rows = [{"name": "a|b", "x": 0.1 + 0.2, "none": None}, {"name": "c", "x": 2.0, "none": None}]
    tables.write_tables(tmp_path, "t", rows, {"x": "value"}, {"x": ".2f"})
    first = {"name": "a|b", "x": "0.30000000000000004", "none": ""}
    assert tables.read_csv(tmp_path / "t.csv")[0] == first
    assert "| a\\|b | 0.30 | – |" in (tmp_path / "t.md").read_text(encoding="utf-8")
    assert r"c & 2.00 \tabularnewline" in (tmp_path / "t.tex").read_text()       # no empty column


def test_layers_of_any_module():
    conv = torch.nn.Conv2d(3, 3, (3, 5), padding=(1, 2))
    net = torch.nn.Sequential(torch.nn.Linear(3, 48), torch.nn.ReLU(),
                              torch.nn.Unflatten(1, (3, 4, 4)), conv, conv)
    net.offset = torch.nn.Parameter(torch.zeros(3, 1, 1))
    net.forward = lambda z: net[:5](z) + net.offset
    lines = manuscript.layers_table(net, torch.zeros(1, 3)).splitlines()[4:-2]
    assert [line.removesuffix(r" \tabularnewline").split(" & ") for line in lines] == [
        ["Linear, ReLU", "", "48", "192"],
        ["Unflatten", "", r"3 $\times$ 4 $\times$ 4", "0"],
        ["Conv2d, Conv2d", "(3, 5)", r"3 $\times$ 4 $\times$ 4", "138"],
        ["other parameters", "", "", "3"], ["all layers", "", "", "333"]]


def test_every_option_and_metric_has_one_macro(evaluated):
    text = (evaluated / "report" / "macros.tex").read_text()
    values = dict(re.findall(r"^\\newcommand\{\\([A-Za-z]+)\}\{(.*)\}$", text, re.M))
    assert len(values) == text.count("\n")
    settings = (evaluated / "report" / "settings.tex").read_text()
    for field in dataclasses.fields(abp.Config):
        assert latex.macro_name("option", field.name) in values
        assert (rf"\texttt{{{latex.escape(field.name)}}}" in settings) == (
            field.name not in manuscript.PATHS)
    for start in ("warm", "cold"):
        metrics = read_json(evaluated / start / "metrics.json")
        assert {latex.macro_name(start, key) for key in metrics} <= values.keys()
        assert float(values[f"{start}Psnr"]) == pytest.approx(metrics["psnr"], abs=0.006)
    assert values["optionImgSize"] == "16" and values["nImages"] == "6"
    assert r"\textbf{\boldmath 16}" in settings and r"\boldmath 0.0045}" not in settings
    assert all(f"{name} " in values["libraries"] for name in ("Python", *manuscript.LIBRARIES))
    assert list(manuscript.LIBRARIES) == (ROOT / "requirements.txt").read_text().split()


def test_the_report_takes_the_newest_run_of_both_starts(tmp_path):
    output = tmp_path / "output"
    for name in ("a", "b b_1", "only_warm", "100%", "{"):
        for start in ["warm"] if name == "only_warm" else ["warm", "cold"]:
            (output / name / start).mkdir(parents=True)
            (output / name / start / "metrics.json").touch()
        manuscript.point_report_to(output / name, output)
        manuscript.point_report_to(output / name, tmp_path / "elsewhere")
    assert (output / "latest.tex").read_text() == "\\edef\\run{\\detokenize{../output/b b_1}}\n"
    assert not (tmp_path / "elsewhere").exists()


@needs_latex
@pytest.mark.parametrize("name", ["001", "my run_1", "löwe"])
def test_the_newest_run_is_built(project, name):
    folder = (project / "output" / "001").rename(project / "output" / name)
    manuscript.point_report_to(folder, project / "output")
    status, log = build(project)
    check(status, log)
    assert "LaTeX Warning" not in log


@needs_latex
def test_missing_parts_are_left_out(project):
    folder = project / "output" / "001"
    missing = ["report/warm_recon.jpg", "evaluation/summary.tex"]
    for name in missing:
        (folder / name).unlink()
    shutil.rmtree(project / "output" / "zoo")
    missing.append("../output/zoo/animals.tex")
    named = rf"-usepretex=\newcommand{{\run}}{{{folder}}}"
    check(*build(project, named), *missing)
    (folder / "evaluation" / "macros.tex").write_text(r"\newcommand{\evaluatedEpochs}{2}")
    status, log = build(project, named)
    late = ("nearest.png", "posterior_maps.pdf", "samplers_mean.tex")
    check(status, log, *missing, *(f"evaluation/warm/{name}" for name in late))
    assert "the evaluation is of 2 epochs and left out" in log


@needs_latex
def test_one_line_without_a_finished_run(project):
    status, log = build(project)
    assert status != 0 and "! report.tex: no finished run of both starts" in " ".join(log.split())
    assert not (project / "report" / "report.pdf").exists()
    (project / "output" / "001" / "report" / "macros.tex").unlink()
    manuscript.point_report_to(project / "output" / "001", project / "output")
    status, log = build(project)
    assert status != 0 and "../output/001 is no finished run" in log.replace("\n", "")


@needs_latex
@pytest.mark.parametrize("options", [{"start": "warm", "nz": 1}, {"nz": 3, "mask": "pepper:0.5"}])
def test_other_runs_have_a_report(faces, tmp_path, options):
    folder = tmp_path / "run"
    assert abp.main(command(faces, f"--out={folder}", **options | {"n_epochs": 2})) == 0
    status, log = build(tmp_path, rf"-usepretex=\newcommand{{\run}}{{{folder}}}")
    assert status == 0 and "undefined" not in log
    assert "left out for want of evaluation/summary.tex" in log
    assert ("left out for want of report/cold_recon.jpg" in log) == ("start" in options)
