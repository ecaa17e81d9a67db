"""Tables as CSV (full precision, for programs), Markdown and LaTeX (rounded, for readers)."""
import csv

from runs.files import write_atomic, write_csv
from runs.latex import tabular
from runs.options import UserError

MISSING = "–"


def write_tables(folder, name, rows, heads=None, forms=None, row_forms=None):
    """Write rows as folder/name.csv, .md and .tex (a tabular environment for booktabs, to be \\input).

    rows   list of dicts with the same keys; values are texts, ints, floats, or None where there is none
    heads  {key: title of its column} for Markdown and LaTeX; a key left out is its own title
    forms  {key: format of its floats}; ".4g" for a key left out
    row_forms  formats of the rows instead, where each is a quantity of its own
    A column that holds nothing is left out of the LaTeX table.
    """
    heads, forms = heads or {}, forms or {}
    keys = list(rows[0])
    titles = [heads.get(key, key) for key in keys]
    row_forms = row_forms or [None] * len(rows)
    cells = [[_text(row[key], form or forms.get(key, ".4g")) for key in keys]
             for row, form in zip(rows, row_forms, strict=True)]
    words = [all(isinstance(row[key], str) for row in rows) for key in keys]       # columns of words
    write_csv(folder / f"{name}.csv", rows)
    write_atomic(folder / f"{name}.md", markdown(titles, cells, words))
    filled = [k for k, key in enumerate(keys) if any(row[key] is not None for row in rows)]
    filled = filled or range(len(keys))

    def kept(line):
        return [line[k] for k in filled]

    write_atomic(folder / f"{name}.tex", tabular(kept(titles), [kept(line) for line in cells], kept(words)))


def _text(value, form):
    if value is None:
        return MISSING
    return format(value, form) if isinstance(value, float) else str(value)


def read_csv(path):
    """The rows of a CSV file, a list of dicts of texts."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown(titles, cells, words):
    """A Markdown table: titles and rows of texts; words: of each column, whether it holds words, set left."""
    rule = ["---" if word else "---:" for word in words]
    lines = [titles, rule, *cells]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def replace_between(page, name, part, path):
    """A Markdown page with what stands between <!-- name --> and <!-- end name --> replaced by `part`.

    Raises UserError, naming the page's path, unless both markers are there once.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise UserError(f"{path}: must hold {begin.strip()} and {end} once each; put them back")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{part.strip()}\n\n{end}{rest.split(end)[1]}"
