"""report/showcase.py: the tables of README.md and docs/."""
import pytest

from report import showcase
from runs.files import write_json
from runs.options import UserError
from runs.tables import replace_between


@pytest.fixture
def run(tmp_path):
    """A run folder with the files that the tables are made from."""
    for folder in (tmp_path, tmp_path / "handout"):
        for start in ("warm", "cold"):
            (folder / start).mkdir(parents=True)
            write_json(folder / start / "metrics.json", {
                "psnr": 33.24, "sample_nearest_psnr": 28.46, "sample_nearest_psnr_p10": 23.21,
                "z_mean_square": 1.19, "seconds": 152.4})
    (tmp_path / "evaluation").mkdir()
    for file in showcase.TABLES.values():
        (tmp_path / "evaluation" / file).write_text(f"| {file} |\n")
    write_json(tmp_path / "config.json", {"machine": "a CPU", "threads": 2, "precision": "bf16"})
    write_json(tmp_path / "showcase.json", {"python abp.py": 330.0})
    return tmp_path


def test_every_table_has_its_place_in_a_page(run):
    found = showcase.tables(run)
    assert found.keys() == showcase.PAGES.keys()
    assert "| default, warm start | 33.2 | 28.5 | 23.2 | 1.19 | 152 s |\n" in found["results"]
    assert "| `--preset handout`, cold start |" in found["results"]
    assert "| `python abp.py` | 5.5 min |\n" in found["times"]
    assert "on a CPU, 2 threads, bf16" in found["times"]
    for name, table in found.items():
        page = showcase.PAGES[name].read_text(encoding="utf-8")
        page = replace_between(page, name, table, "page")
        assert table.strip() in page and replace_between(page, name, table, "page") == page
    with pytest.raises(UserError, match="page: must hold <!-- results -->"):
        replace_between("nothing", "results", "table", "page")


def test_commands_with_results_are_not_run_again(run, capfd):
    showcase.compute(run, "python no_such_program.py", "config.json")
    assert capfd.readouterr().out == "" and showcase.times(run) == {"python abp.py": 330.0}
    with pytest.raises(UserError, match="python other.py RUN: failed"):
        showcase.compute(run, "python other.py RUN", "other.md")
