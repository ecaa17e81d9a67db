"""LaTeX for programs: plain texts escaped, numbers set as numbers, tables, macros."""
import re
import textwrap
import unicodedata

SPECIAL = str.maketrans({c: rf"\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "–": "--", "−": "$-$", "²": "$^2$", "³": "$^3$",
    "σ": r"$\sigma$", "θ": r"$\theta$", "χ": r"$\chi$"})
# letters beyond Latin-1 that pdfLaTeX knows with the T1 fonts
LETTERS = set("ĂăĄąĆćČčĎďĐđĘęĚěĞğĹĺĽľŁłŃńŇňŐőŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž")
NUMBER = re.compile(r"([-−]?)(\d[\d,]*\.?\d*|\.\d+|inf|nan)(?:e([-+]?\d+))?$")
DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
HEAD = 12                      # characters of a line of a column's title


def escape(text, breakable=False):
    """Any plain text, a file name say, as LaTeX that prints it.

    Characters that pdfLaTeX's standard fonts lack are printed as their number: <U+72EE>.
    breakable  lines may break after every character, if there are many: for paths
    """
    text = unicodedata.normalize("NFC", str(text))
    text = re.sub("([-',])(?=\\1)", "\\1\0", text)                                  # or -- would be a dash
    return (r"\allowbreak{}" if breakable and len(text) > 14 else "").join(map(_character, text))


def _character(c):
    if c == "\0":
        return "{}"
    if c in "\t\n\r":
        return " "
    if " " <= c <= "~" or "\xa1" <= c <= "\xff" and c != "\xad" or c in LETTERS or ord(c) in SPECIAL:
        return c.translate(SPECIAL)
    return rf"\textless{{}}U+{ord(c):04X}\textgreater{{}}"


def number(text):
    """A number as a program prints it, minus and powers of ten set as mathematics; other texts as labels."""
    match = NUMBER.match(text)
    if not match:
        return label(text)
    sign, digits, power = match.groups()
    if power is not None:
        return rf"${'-' if sign else ''}{digits} \times 10^{{{int(power)}}}$"
    return f"$-{digits}$" if sign else text


def label(text):
    """The words of a table, in which z, z_1 and z_2 are the latent."""
    text = re.sub(r"\bz\\_(\d)\b(?!\.)", r"$z_\1$", escape(text))
    return re.sub(r"(?<![\w$\\.])z(?![\w\\.])", "$z$", text)


def plain(value, form="g"):
    """A number as a macro holds it, for TeX's own comparisons too: never with a power of ten."""
    text = format(value, form)
    return f"{value:.12f}".rstrip("0") if "e" in text else text


def tabular(titles, cells, words=None):
    r"""A tabular environment with booktabs' rules, to be \input.

    titles  of the columns, plain text; long ones are broken into lines
    cells   rows of plain texts, of which those that are numbers are set so
    words   for each column whether it is of words, left-aligned; default: the first is
    """
    words = words or [True] + [False] * (len(titles) - 1)
    columns = ["l" if word else "r" for word in words]
    head = _guard(" & ".join(_head(title, side) for title, side in zip(titles, columns, strict=True)))
    rows = [_guard(" & ".join(number(text) for text in row)) + r" \\" for row in cells]
    return environment("".join(columns), [r"\toprule", head + r" \\", r"\midrule", *rows, r"\bottomrule"])


def environment(columns, lines):
    """A tabular environment of the given columns and lines."""
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\end{tabular}"]) + "\n"


def _head(title, side):
    lines = textwrap.wrap(title, HEAD, break_long_words=False, break_on_hyphens=False) or [""]
    if len(lines) == 1:
        return label(title)
    text = r"\\".join(_guard(label(line)) for line in lines)
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{text}\end{{tabular}}"


def _guard(line):
    r"""A line that may follow \\ or a rule, which take [ and * for their own."""
    return "{}" + line if line.startswith(("[", "*")) else line


def macro_name(*parts):
    """("warm", "sample_nearest_psnr_p10") -> "warmSampleNearestPsnrPOneZero": letters only, as TeX wants."""
    pieces = [piece for part in parts for piece in re.findall(r"[A-Za-z]+|\d", part)]
    name = "".join(DIGITS[int(p)] if p.isdigit() else p[0].upper() + p[1:] for p in pieces)
    return name[0].lower() + name[1:]


def macros(values):
    r"""{name: LaTeX} as \newcommand lines."""
    return "".join(f"\\newcommand{{\\{name}}}{{{text}}}\n" for name, text in values.items())
