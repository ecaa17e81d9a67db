"""Tables as CSV (full precision, for programs), Markdown and LaTeX (rounded, for readers)."""
import csv

from runs.files import write_atomic, write_csv
from runs.latex import tabular
from runs.options import UserError

MISSING = "–"


def write_tables(folder, name, rows, heads=None, forms=None, row_forms=None):
    r"""Write rows as folder/name.csv, .md and .tex (a tabular environment, to be \input).

    rows       dicts with the same keys; values are str, int, float, or None where there is no value
    heads      {key: column title} for Markdown and LaTeX; by default the key
    forms      {key: format of its floats}; by default .4g
    row_forms  one format for each row instead, where each row is another quantity
    A column without any value is left out of the LaTeX table.
    """
    heads, forms = heads or {}, forms or {}
    keys = list(rows[0])
    titles = [heads.get(key, key) for key in keys]
    row_forms = row_forms or [None] * len(rows)
    cells = [[_text(row[key], form or forms.get(key, ".4g")) for key in keys]
             for row, form in zip(rows, row_forms, strict=True)]
    words = [all(isinstance(row[key], str) for row in rows) for key in keys]
    write_csv(folder / f"{name}.csv", rows)
    write_atomic(folder / f"{name}.md", markdown(titles, cells, words))
    filled = [k for k, key in enumerate(keys) if any(row[key] is not None for row in rows)]

    def kept(line):
        return [line[k] for k in filled or range(len(keys))]

    text = tabular(kept(titles), [kept(line) for line in cells], kept(words))
    write_atomic(folder / f"{name}.tex", text)


def _text(value, form):
    if value is None:
        return MISSING
    return format(value, form) if isinstance(value, float) else str(value)


def read_csv(path):
    """The rows of a CSV file: a list of {column: str}, with "" where there is no value."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown(titles, cells, words=None):
    """A Markdown table of texts.

    words  for each column, whether it is left-aligned; by default only the first is
    """
    words = words or [True] + [False] * (len(titles) - 1)
    lines = [titles, ["---" if word else "---:" for word in words], *cells]
    lines = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace_between(page, name, part, path):
    """A Markdown page with the text between <!-- name --> and <!-- end name --> replaced by `part`.

    Raises UserError, naming the page's path, unless each marker occurs exactly once.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise UserError(f"{path}: must hold {begin.strip()} and {end} once each; put them back")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{part.strip()}\n\n{end}{rest.split(end)[1]}"
