"""How every figure looks: Computer Modern as in a LaTeX report, 8 points at the width it is printed at."""
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager, ft2font
from PIL import ImageFont

COLUMN = 3.3                     # inches, the width of a column of a report; figures are 1 or 2 columns wide
TEXT = 8                         # points, the size of captions
SMALL = 7                        # points, of numbers along axes and titles of small panels
STYLE = {
    "font.family": "serif", "font.serif": ["cmr10"], "mathtext.fontset": "cm", "font.size": TEXT,
    "axes.formatter.use_mathtext": True,                  # cmr10 itself has no minus
    "axes.titlesize": TEXT, "axes.labelsize": TEXT, "legend.fontsize": TEXT,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "axes.linewidth": 0.6, "lines.linewidth": 1.0,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
# Okabe and Ito's colours, told apart by everyone, and line styles for print in grey
LINES = {"warm": {"color": "#d55e00", "linestyle": "-"},
         "cold": {"color": "#0072b2", "linestyle": (0, (4, 1.5))}}
LATENT = {"marker": "x", "color": "#d55e00", "markersize": 4}      # where the run's z stands on a map
# File names are set as in the report's \texttt: cmr10 has other signs in the places of _ and |
FAMILIES = ["cmtt10", "DejaVu Sans Mono"]
FILE_NAME = {"family": FAMILIES, "fontsize": SMALL, "parse_math": False}
LONGEST = 18                     # characters of a file name in a figure; longer ones lose their middle


def file_name(name):
    """A file name as a figure can show it, with FILE_NAME: short, with ? for what the fonts do not have."""
    name = "".join(c if ord(c) in _known() else "?" for c in name)
    return name if len(name) <= LONGEST else f"{name[:LONGEST // 2 - 1]}...{name[2 - LONGEST // 2:]}"


@cache
def _known():
    return frozenset(ft2font.FT2Font(font_manager.findfont(FAMILIES[-1])).get_charmap())


@cache
def picture_font(pixels):
    """Computer Modern of a size in pixels, for text in PNG pictures."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"), pixels)


def picture_text(width):
    """The size in pixels of TEXT in a picture of `width` pixels that is printed two columns wide."""
    return round(width * TEXT / (72 * 2 * COLUMN))
