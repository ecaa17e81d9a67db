"""Tables as CSV (full precision, for programs), Markdown and LaTeX (rounded, for readers)."""
from utils import write_atomic, write_table

SPECIAL = str.maketrans({c: rf"\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"})
MISSING = "–"


def write_tables(folder, name, rows, heads=None, forms=None):
    """Write rows as folder/name.csv, .md and .tex (a tabular environment, to be \\input).

    rows   list of dicts with the same keys; values are texts, ints, floats, or None where there is none
    heads  {key: title of its column} for Markdown and LaTeX; a key left out is its own title
    forms  {key: format of its floats}; ".4g" for a key left out
    """
    heads, forms = heads or {}, forms or {}
    keys = list(rows[0])
    titles = [heads.get(key, key) for key in keys]
    cells = [[_text(row[key], forms.get(key, ".4g")) for key in keys] for row in rows]
    words = [all(isinstance(row[key], str) for row in rows) for key in keys]       # columns of words
    write_table(folder / f"{name}.csv", rows)
    write_atomic(folder / f"{name}.md", _markdown(titles, cells, words))
    write_atomic(folder / f"{name}.tex", _latex(titles, cells, words))


def _text(value, form):
    if value is None:
        return MISSING
    return format(value, form) if isinstance(value, float) else str(value)


def _markdown(titles, cells, words):
    rule = ["---" if word else "---:" for word in words]
    lines = [titles, rule, *cells]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def _latex(titles, cells, words):
    rows = [" & ".join(_escape(text) for text in line) + r" \\" for line in [titles, *cells]]
    return "\n".join([r"\begin{tabular}{" + "".join("l" if word else "r" for word in words) + "}", r"\hline",
                      rows[0], r"\hline", *rows[1:], r"\hline", r"\end{tabular}"]) + "\n"


def _escape(text):
    return text.translate(SPECIAL).replace(MISSING, "--").replace("−", "$-$").replace("²", "$^2$").replace(
        "σ", r"$\sigma$").replace("χ", r"$\chi$")
