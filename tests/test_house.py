"""The structure: imports between rooms, files on top, file lengths."""
import ast

from conftest import ROOT

# each room may import itself and the rooms before it
ORDER = ["runs", "inference", "models", "utils", "explorer", "abp", "evaluation", "benchmark",
         "zoo"]
FILES = [path for room in ORDER for path in (
    [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").is_file()
    else sorted((ROOT / room).rglob("*.py")))]


def imported(path):
    """The rooms that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [node.module] if isinstance(node, ast.ImportFrom) else [])
        yield from (name.split(".")[0] for name in names if name.split(".")[0] in ORDER)


def test_rooms_import_one_way():
    for path in FILES:
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imported(path):
            assert ORDER.index(other) <= ORDER.index(room), f"{path} imports {other}"
            assert (other, room) != ("benchmark", "zoo"), f"{path} imports {other}"


def test_no_test_imports_a_test():
    for path in (ROOT / "tests").rglob("*.py"):
        assert "import test_" not in path.read_text().replace('"import test_"', "")


def test_top_level_files_and_file_lengths():
    assert {path.name for path in ROOT.glob("*.py")} == {"abp.py", "models.py", "utils.py"}
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "report").glob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
    assert len((ROOT / "abp.py").read_text(encoding="utf-8").splitlines()) <= 300
