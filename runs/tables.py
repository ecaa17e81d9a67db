"""Tables as CSV (full precision, for programs), Markdown and LaTeX (rounded, for readers)."""
import csv

from runs.files import write_atomic, write_csv
from runs.latex import tabular
from runs.options import UserError

MISSING = "–"


def write_tables(folder, name, rows, heads=None, forms=None, row_forms=None):
    r"""Write rows as folder/name.csv, .md and .tex (a tabular environment, to be \input).

    rows       dicts with the same keys; values are str, int, float, or None if missing
    heads      {key: column title} for Markdown and LaTeX; by default the key
    forms      {key: format of its floats}; by default .4g
    row_forms  one format for each row instead
    A column without any value is left out of the LaTeX table.
    """
    heads, forms = heads or {}, forms or {}
    row_forms = row_forms or [None] * len(rows)

    def columns(keys):
        titles = [heads.get(key, key) for key in keys]
        cells = [[_text(row[key], form or forms.get(key, ".4g")) for key in keys]
                 for row, form in zip(rows, row_forms, strict=True)]
        return titles, cells, [all(isinstance(row[key], str) for row in rows) for key in keys]

    keys = list(rows[0])
    filled = [key for key in keys if any(row[key] is not None for row in rows)]
    write_csv(folder / f"{name}.csv", rows)
    write_atomic(folder / f"{name}.md", markdown(*columns(keys)))
    write_atomic(folder / f"{name}.tex", tabular(*columns(filled or keys)))


def _text(value, form):
    if value is None:
        return MISSING
    return format(value, form) if isinstance(value, float) else str(value)


def read_csv(path):
    """The rows of a CSV file: a list of {column: str}, "" for a missing value."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown(titles, cells, words=None):
    """A Markdown table of texts; words: which columns are left-aligned, by default the first."""
    words = words or [True] + [False] * (len(titles) - 1)
    lines = [titles, ["---" if word else "---:" for word in words], *cells]
    lines = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace_between(page, name, part, path):
    """A Markdown page with `part` between <!-- name --> and <!-- end name -->.

    Raises UserError, naming the page's path, unless each marker occurs exactly once.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise UserError(f"{path}: must hold {begin.strip()} and {end} once each; put them back")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{part.strip()}\n\n{end}{rest.split(end)[1]}"
