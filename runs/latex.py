"""LaTeX output: escaped text, numbers in math mode, tables and macros."""
import re
import textwrap
import unicodedata

SPECIAL = str.maketrans({c: rf"\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "–": "--", "−": "$-$", "²": "$^2$", "³": "$^3$", "×": r"$\times$",
    "σ": r"$\sigma$", "θ": r"$\theta$", "χ": r"$\chi$"})
# letters beyond Latin-1 that pdfLaTeX can print with the T1 fonts
LETTERS = set("ĂăĄąĆćČčĎďĐđĘęĚěĞğĹĺĽľŁłŃńŇňŐőŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž")
NUMBER = re.compile(r"([-−]?)(\d[\d,]*\.?\d*|\.\d+|inf|nan)(?:e([-+]?\d+))?$")
DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
TITLE_WIDTH = 12               # characters in a line of a column title


def escape(text, breakable=False):
    """Plain text as LaTeX; characters that the T1 fonts lack as code points: <U+72EE>.

    breakable  allow a line break after every character of a long text, such as a path
    """
    text = unicodedata.normalize("NFC", str(text))
    text = re.sub("([-',])(?=\\1)", "\\1\0", text)      # two in a row would be a dash or quote
    return (r"\allowbreak{}" if breakable and len(text) > 14 else "").join(map(_character, text))


def _character(c):
    if c == "\0":
        return "{}"
    if c in "\t\n\r":
        return " "
    latin = " " <= c <= "~" or "\xa1" <= c <= "\xff" and c != "\xad"
    if latin or c in LETTERS or ord(c) in SPECIAL:
        return c.translate(SPECIAL)
    return rf"\textless{{}}U+{ord(c):04X}\textgreater{{}}"


def number(text):
    """A printed number with its minus and power of ten in math mode; other text as `label`."""
    match = NUMBER.match(text)
    if not match:
        return label(text)
    sign, digits, power = match.groups()
    if power is not None:
        return rf"${'-' if sign else ''}{digits} \times 10^{{{int(power)}}}$"
    return f"$-{digits}$" if sign else text


def label(text):
    """Escaped text in which the words z, z_1 and z_2 are set in math mode."""
    text = re.sub(r"\bz\\_(\d)\b(?!\.)", r"$z_\1$", escape(text))
    return re.sub(r"(?<![\w$\\.])z(?![\w\\.])", "$z$", text)


def tabular(titles, cells, words=None):
    r"""A tabular environment with booktabs rules, to be \input.

    titles  of the columns, plain text; a long one is broken into lines
    cells   rows of plain text; numbers are set as numbers
    words   which columns are left-aligned; by default the first
    """
    words = words or [True] + [False] * (len(titles) - 1)
    sides = ["l" if word else "r" for word in words]
    head = " & ".join(_title(title, side) for title, side in zip(titles, sides, strict=True))
    return environment("".join(sides), head, [" & ".join(map(number, row)) for row in cells])


def environment(columns, head, rows):
    """A tabular environment with booktabs rules from a column specification and lines of LaTeX."""
    head, *rows = [_guard(line) + " \\tabularnewline\n" for line in (head, *rows)]
    return (f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\\midrule\n{''.join(rows)}"
            "\\bottomrule\n\\end{tabular}\n")


def _title(title, side):
    lines = textwrap.wrap(title, TITLE_WIDTH, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2:
        return label(title)
    text = r"\\".join(_guard(label(line)) for line in lines)
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{text}\end{{tabular}}"


def _guard(line):
    r"""A line that may follow \\ or a rule, which would read [ and * as arguments."""
    return "{}" + line if line.startswith(("[", "*")) else line


def macro_name(*parts):
    """("warm", "psnr_p10") -> "warmPsnrPOneZero": TeX allows letters only."""
    pieces = [piece for part in parts for piece in re.findall(r"[A-Za-z]+|\d", part)]
    name = "".join(DIGITS[int(p)] if p.isdigit() else p[0].upper() + p[1:] for p in pieces)
    return name[0].lower() + name[1:]


def macros(values):
    r"""{name: LaTeX} as \newcommand lines."""
    return "".join(f"\\newcommand{{\\{name}}}{{{text}}}\n" for name, text in values.items())
