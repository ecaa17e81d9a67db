"""Draw the default data set: faces of tigers that turn into lions, with known factors.

    draw_face(lion, turn, traits, size)     lion from 0 (tiger) to 1, turn from -1 to 1 (25 degrees)
    python -m data.draw                     the 24 faces and factors.csv in data/drawn
    python -m data.draw --n 500 --out more  any number of faces, the same every time

The head is a height map z(u, v) over the face seen from the front: outlines are projected from
(u, v) to the screen, colours and light follow each pixel's (u, v). The pixels change smoothly with
the factors.
"""
import sys
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data import portrait
from data.portrait import Portrait, mix, offsets, oval, ribbon, smoothstep, spline, symmetric
from runs.files import write_csv
from runs.options import check, option, run_program

LEVELS = 4                   # step of the animal's colours: a third smaller files, not visible
GOLDEN = (5**0.5 - 1) / 2    # its multiples, modulo 1, fill [0, 1] evenly


@dataclass(frozen=True)
class DrawConfig:
    n: int = option(24, "number of faces, half of them lions", 1, 99999)
    size: int = option(256, "width and height in pixels", 16, 2048)
    seed: int = option(0, "another seed draws other animals", 0, 999999)
    out: str = option(str(Path(__file__).with_name("drawn")), "folder to fill")

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class Traits:
    """Small variations between animals. Each is in [-1, 1]; 0 is the average animal."""
    coat: float = 0            # pale .. rich
    mane_shade: float = 0      # golden .. dark
    mane_fullness: float = 0   # short .. long
    stripe_width: float = 0    # thin .. bold
    stripe_shift: float = 0    # moves each stripe in another direction
    ear_size: float = 0        # small .. large
    eye_size: float = 0        # small .. large
    eye_hue: float = 0         # amber .. green
    muzzle_width: float = 0    # narrow .. broad
    whiskers: float = 0        # short .. long
    backdrop: float = 0        # green .. sky .. earth


class Face(NamedTuple):
    """One animal of a set: the name of its file without .png, its factors and traits."""
    name: str
    lion: float
    turn: float
    traits: Traits


# Shapes in face coordinates (u, v): the right half, or the right one of two
HEAD_TIGER = [(0, -.75), (.18, -.74), (.36, -.685), (.52, -.595), (.635, -.44),
              (.69, -.23), (.71, .02), (.745, .20), (.735, .36), (.68, .50),
              (.58, .62), (.46, .71), (.32, .77), (.16, .83), (0, .85)]
HEAD_LION = [(0, -.66), (.17, -.655), (.34, -.61), (.45, -.52), (.51, -.38),
             (.535, -.20), (.54, -.02), (.53, .14), (.51, .28), (.47, .42),
             (.42, .54), (.36, .65), (.26, .76), (.13, .825), (0, .84)]
STRIPES = [                  # points from root to tip, width
    ([(.01, -.24), (.06, -.3), (.15, -.33)], .042),
    ([(.01, -.35), (.09, -.43), (.2, -.43), (.3, -.38)], .06),
    ([(.01, -.47), (.1, -.56), (.22, -.56), (.35, -.49)], .06),
    ([(.02, -.6), (.11, -.66), (.24, -.66)], .05),
    ([(.14, -.2), (.2, -.3), (.33, -.32), (.44, -.24)], .052),
    ([(.36, -.43), (.46, -.34), (.51, -.2)], .056),
    ([(.43, -.6), (.55, -.44), (.58, -.25)], .06),
    ([(.39, -.13), (.48, -.12), (.54, -.04), (.55, .1)], .054),
    ([(.68, -.38), (.62, -.24), (.64, -.04)], .06),
    ([(.4, .01), (.475, .11), (.48, .25), (.42, .36)], .05),
    ([(.62, -.02), (.64, .13), (.61, .27), (.53, .39)], .062),
    ([(.73, .0), (.685, .1), (.69, .22)], .045),
    ([(.78, .16), (.72, .31), (.64, .42), (.52, .49)], .06),
    ([(.74, .44), (.64, .54), (.5, .58)], .056),
    ([(.6, .62), (.5, .665), (.37, .66)], .046),
    ([(.52, .3), (.47, .42), (.37, .52)], .042)]
SHOULDERS = [(0, -.1), (.45, .0), (.68, .26), (.95, .52), (1.25, .75), (1.5, 1.5), (0, 1.5)]
SHOULDER_STRIPES = [[(1.06, .74), (.86, .7), (.62, .8)], [(1.2, 1), (.9, .88), (.56, 1)]]
ALMOND = [(-.1, .04), (-.06, -.02), (0, -.05), (.06, -.046),
          (.1, -.012), (.06, .04), (0, .056), (-.06, .05)]
NOSE = [(0, .265), (.08, .262), (.145, .27), (.165, .305),
        (.13, .345), (.06, .385), (.02, .42), (0, .425)]
LIPS = [(0, .50), (.07, .555), (.16, .565), (.25, .52), (.275, .485)]
NOSTRIL = [(.045, .352), (.085, .325), (.135, .318)]
PALE = [                     # on a tiger, on a lion, u, v, ru, rv, power
    (.95, .40, .25, -.245, .15, .075, 2),      # over the eyes
    (.80, .50, .34, .03, .15, .06, 1.5),       # under the eyes
    (.95, .05, .62, .40, .24, .30, 1.7),       # cheeks
    (.90, .05, .36, .72, .22, .18, 1.7),       # jaw
    (.92, .92, .15, .46, .19, .14, 2),         # lips
    (.95, .95, 0, .7, .3, .2, 2),              # chin
    (.1, .2, 0, .02, .08, .34, 1.5)]           # bridge of the nose
WHISKERS = [(.2, .42, .52, -.1), (.21, .46, .58, .02),           # root, vector to the tip
            (.2, .49, .55, .13), (.18, .52, .46, .22)]
INK = (44, 28, 24)
LANDSCAPE = np.array([                                           # green, sky, earth
    [(116, 150, 96), (166, 196, 218), (216, 192, 156)],          # above
    [(58, 88, 46), (98, 132, 118), (128, 98, 66)]], np.float32)  # below


def paint_behind(art: Portrait, lion: float, coat, hue: float):
    """A landscape of a hue in [-1, 1], and the shoulders -> landscape (size, size, 3)."""
    weights = np.clip(1 - np.abs(np.array([-1, 0, 1]) - hue), 0, 1)
    above, below = (LANDSCAPE * weights[:, None]).sum(1)
    art.rgb += mix(above, below, smoothstep(art.y, -1.1, 1.0)[..., None]).round()
    landscape = art.rgb.copy()
    chest = mix((236, 224, 204), coat, .3 + .5 * lion)
    stripes = [ribbon(points, .08) for points in SHOULDER_STRIPES]
    art.fill([symmetric(SHOULDERS)], coat * 0.74, blur=.012, z=-0.3)
    art.fill([oval(0, 1.05, .42, .42)], chest, .85, .08, z=-0.2)
    art.fill(stripes, (40, 28, 22), .9 * (1 - lion), .006, z=-0.3, both=True)
    art.fill([oval(0, .62, .62, .36)], (50, 30, 18), .45, .09, z=-0.1)     # the shadow of the head
    return landscape


def mane_ring(radius, length: float, count: int, growth: float):
    """Locks around the head -> their outlines and those of their streaks, both (count, 22, 2), and
    tones (count,) in [-.5, .5]."""
    i = np.arange(count)[:, None, None]
    jitter = (i * GOLDEN + radius[0] / 0.06) % 1 - 0.5                 # each ring has its own
    angle = 2 * np.pi * (i + radius[0] / 0.06 + 0.4 * jitter) / count  # 0 is up
    out = np.concatenate([np.sin(angle), -np.cos(angle)], -1)
    across = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    t = np.linspace(0, 1, 11)[:, None]
    wave = 0.05 * np.sin(2.4 * np.pi * t) + 0.30 * t**2 * np.abs(np.sin(angle))  # the sides fall
    bend = np.tanh(4 * np.sin(angle)) * wave + 0.25 * jitter * t
    reach = length * growth * (1 + 0.3 * smoothstep(-np.cos(angle), -0.9, 1.0) + 0.25 * jitter)
    root = mix((.60, .64), radius, growth)  # comes in from the outline of the head
    line = out * root + (0, 0.06) + reach * (t * out + bend * across)
    side = 3.6 * np.pi / count * max(root) * growth**0.5 * offsets(line)
    side *= (1 - t**2.5) * (0.6 + 0.5 * np.sin(np.pi * t))             # tapers to a point
    bands = (line, 0.5 * side), (line - 0.15 * side, 0.16 * side)
    locks, streaks = (np.concatenate([mid + half, (mid - half)[:, ::-1]], 1) for mid, half in bands)
    return locks, streaks, jitter.ravel()


def paint_mane(art: Portrait, growth, colours, radius, length, count, depth, tone, clip=1):
    """One ring of locks over its soft shadow. colours: inner, outer; radius: of the roots, along u
    and v; tone: 0 inner .. 1 outer; clip: mask (size, size) or 1."""
    clip = clip * smoothstep(growth, 0.02, 0.35)
    if np.max(clip) == 0:
        return
    k = portrait.OVERSAMPLE
    *shapes, jitter = mane_ring(radius, length, count, growth)
    shapes = [art.project(shape, depth * growth).reshape(count, -1) * k for shape in shapes]
    transparent = *mix(*colours, tone).astype(int).tolist(), 0
    layer = Image.new("RGBA", (art.size * k, art.size * k), transparent)
    pen = ImageDraw.Draw(layer)
    for i in np.argsort(np.arange(count) * 7 % 11, kind="stable"):   # neighbours overlap either way
        shade = mix(*colours, np.clip(tone + 0.35 * jitter[i], 0, 1))
        for outline, lift in zip(shapes, (1, 1.13), strict=True):
            colour = np.minimum(shade * lift, 255).astype(int).tolist()
            pen.polygon(outline[i].tolist(), fill=(*colour, 255))
    layer = layer.reduce(k)
    shadow = layer.getchannel("A").filter(ImageFilter.GaussianBlur(0.02 * art.size))
    art.blend(np.asarray(shadow, np.float32) / 255 * clip * 0.5 * growth, colours[1] * 0.45)
    layer = np.asarray(layer, np.float32)
    light = (1 - 0.10 * art.x - 0.14 * art.y)[..., None]
    art.blend(layer[..., 3] / 255 * clip, layer[..., :3] * light)


def paint_ears(art: Portrait, lion: float, coat, size: float):
    """Round ears with light fur inside; a tiger's have a dark rim."""
    u, v, r = mix(.49, .52, lion), mix(-.65, -.60, lion), mix(.19, .18, lion) * (1 + 0.12 * size)
    for du, dv, ru, rv, colour, alpha, blur in (
            (0, 0, 1, 1, mix((38, 28, 24), coat * 0.62, lion), 1, .004),
            (-.01, .035, .90, .90, coat * 0.93, 1, .012),
            (-.01, .05, .68, .70, mix((96, 62, 46), (122, 82, 56), lion), 1, .02),
            (-.06, .075, .46, .62, mix((250, 240, 224), (226, 196, 150), lion), .85, .025)):
        art.fill([oval(u + du, v + dv, r * ru, r * rv)], colour, alpha, blur, z=-0.05, both=True)


def paint_skin(art: Portrait, lion: float, coat, traits: Traits):
    """The face: an outline with tufts of fur, pale fields, light, and stripes that fade."""
    half = mix(HEAD_TIGER, HEAD_LION, lion)
    tufts = []                                                       # longest on the cheeks
    for u, v in half[6:-1].astype(float):
        out = (1 - 0.5 * lion) * smoothstep(v, -.3, .4) * smoothstep(u, .1, .5)
        tufts.append(ribbon([(.55 * u, v - .22), (.92 * u, v - .06),
                             (u + .09 * out, v + .13 * out)], .17, 1))
    mask = art.stencil([symmetric(half), *tufts], .005 + .02 * lion, both=True)
    white, coloured = mix((252, 246, 234), (252, 241, 218), lion), 1.0
    for on_tiger, on_lion, *place in PALE:
        coloured = coloured * (1 - mix(on_tiger, on_lion, lion) * art.spot(*place))
    rich = (art.spot(.20, .16, .10, .22) + 0.7 * art.spot(.09, -.28, .06, .16)
            + 0.6 * art.spot(.50, -.05, .1, .3) + 0.5 * art.spot(0, -.58, .35, .15)).clip(0, 1)
    fur = mix(white, coat, coloured[..., None])
    fur = mix(fur, coat * mix((.86, .72, .60), (.80, .68, .56), lion), 0.55 * rich[..., None])
    shade = art.light()[..., None] ** np.array([0.8, 1.0, 1.15], np.float32)  # shadows are warm
    art.blend(mask, fur * shade)
    share = 1 - 0.65 * lion
    stripes = [ribbon([(0, -.74), (.008, -.62), (0, -.50)], .05 * share, 0.6)]
    for k, (points, width) in enumerate(STRIPES):
        for side in (-1, 1):
            way = np.sin((k + 1) * 2.4 + side * 0.9 + np.array([0, 1.7]))   # a direction each
            moved = (np.array(points) + 0.022 * traits.stripe_shift * way) * (side, 1)
            stripes.append(ribbon(moved, width * (1 + 0.25 * traits.stripe_width) * share, 0.15))
    art.fill(stripes, (36, 25, 20), 0.94 * smoothstep(1 - lion, 0.12, 0.75), .003, mask)


def paint_features(art: Portrait, lion: float, traits: Traits):
    """Almond eyes with amber to green irises; the bridge of the nose, lips, nose, whiskers."""
    at, r = np.array([.262, -.105]), 1 + 0.10 * traits.eye_size
    z = art.height(*at)[0]  # keeps what is round on the eyeball round
    iris = mix((238, 158, 36), (196, 188, 84), (0.5 + 0.5 * traits.eye_hue) * (1 - 0.3 * lion))
    almond = spline(ALMOND, closed=True) * r
    art.fill([almond * 1.30 + at], (30, 20, 16), .94, .008, both=True)
    tear = ribbon([(-.09, .05), (-.125, .12), (-.135, .22)], .045, .9)
    art.fill([tear + at], (40, 26, 20), .75, .012, both=True)
    opening = art.stencil([almond * 0.92 + at], both=True)
    art.fill([almond + at], iris * (.74, .56, .40), clip=opening, both=True)
    for v, ru, rv, colour, alpha, blur in (            # iris, its lower half, pupil, shadow
            (0, .066, .062, iris, 1, .008),
            (.022, .040, .026, mix(iris, (255, 236, 150), .6), .8, .012),
            (-.002, .029, .027, (16, 12, 10), 1, .003),
            (-.062, .11, .030, (24, 16, 12), .75, .012)):
        art.fill([oval(0, v, ru, rv) * r + at], colour, alpha, blur, opening, z, both=True)
    glint = oval(-.022, -.022, .013, .013) * r
    art.fill([glint + at * (side, 1) for side in (-1, 1)], (255, 255, 250), z=z)

    wide, leather = (1 + 0.06 * traits.muzzle_width, 1), mix((196, 112, 96), (96, 62, 52), lion)
    nose = symmetric(NOSE) * (1 + 0.1 * lion, 1)
    bridge = ribbon([(.085, -.06), (.115, .10), (.165, .27)], .06, .8)
    groove = ribbon([(0, .40), (0, .46), (0, .515)], .026, 1)
    dots = [oval(u + .055 * k, v, .01, .01) * wide
            for u, v in ((.12, .42), (.11, .46), (.13, .5)) for k in range(3)]
    art.fill(dots, INK, .55, .004, both=True)
    for outline, colour, alpha, blur in (
            (bridge, (92, 56, 32), .35 + .15 * lion, .025),
            (oval(0, .59, .15, .03), (104, 66, 48), .45, .03),
            (ribbon(LIPS, .034, 1), INK, .9, .006),
            (nose * (1.06, 1), (50, 30, 24), .75, .012),
            (nose, leather, 1, .004),
            (oval(0, .29, .10, .022), mix(leather, (255, 225, 210), .5), .8, .02),
            (ribbon(NOSTRIL, .034, .5), (24, 14, 12), .95, .005),
            (groove, INK, .9, .005)):
        art.fill([outline * wide], colour, alpha, blur, both=True)
    for *root, du, dv in WHISKERS:
        line = np.array([(0, 0), (.4 * du, .25 * dv - .03), (du, dv)])
        line = ribbon(line * (1 + 0.2 * traits.whiskers) + root, .013, 1)
        swept = 0.55 - 0.5 * line[:, 0]                # back
        art.fill([line], (255, 252, 244), .6, .002, z=swept, both=True)


def draw_face(lion: float, turn: float, traits: Traits | None = None,
              size: int = 256) -> Image.Image:
    """One face -> RGB image (size, size).

    lion    in [0, 1]: 0 tiger, 1 lion
    turn    in [-1, 1]: yaw / 25 degrees, positive to the right of the picture
    traits  an average animal if None
    Raises ValueError if a value is out of range.
    """
    traits = traits or Traits()
    if not (0 <= lion <= 1 and all(-1 <= t <= 1 for t in (turn, *astuple(traits)))):
        raise ValueError("lion must be in [0, 1], turn and traits in [-1, 1]; "
                         f"got {lion}, {turn}, {traits}")
    art = Portrait(size, lion, turn, muzzle=1 + 0.06 * traits.muzzle_width)
    lion = 0.5 * lion + 0.5 * float(smoothstep(lion, 0.1, 0.9))     # steepest in the middle
    rich, dark = 0.5 + traits.coat / 2, 0.5 + traits.mane_shade / 2
    full = 1 + 0.14 * traits.mane_fullness
    tiger_coat = mix((222, 150, 74), (214, 122, 38), rich)
    coat = mix(tiger_coat, mix((228, 192, 136), (212, 160, 94), rich), lion)
    mane = mix((220, 158, 80), (172, 104, 52), dark), mix((150, 88, 40), (58, 34, 24), dark)
    landscape = paint_behind(art, lion, coat, traits.backdrop)
    paint_mane(art, lion, mane, (.60, .64), .46 * full, 34, -0.10, 1.0)
    paint_mane(art, lion, mane, (.54, .60), .42 * full, 34, -0.06, 0.8)
    paint_ears(art, lion, coat, traits.ear_size)
    paint_mane(art, lion, mane, (.48, .56), .40 * full, 34, 0.00, 0.55)
    paint_mane(art, lion, mane, (.43, .52), .36 * full, 34, 0.07, 0.3)
    paint_skin(art, lion, coat, traits)
    radius = np.hypot(art.u / mix(.74, .53, lion), (art.v - .13) / .73)
    edge = smoothstep(radius, 0.76, 1.04) * smoothstep(lion, 0.2, 0.8)     # of the face
    paint_mane(art, lion, mane, (.37, .51), .30 * full, 38, 0.14, 0.1, edge)
    paint_features(art, lion, traits)
    pixels = np.where(art.rgb == landscape, landscape, (art.rgb / LEVELS).round() * LEVELS)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def plan_set(n: int = 24, seed: int = 0) -> list[Face]:
    """n animals, the same for the same seed: first tigers (lion <= 0.3), then lions (lion >= 0.7),
    each kind sorted by turn. Factors and traits fill their ranges evenly and independently."""
    rng = np.random.default_rng(seed)
    spread = [(rng.permutation(n) + rng.random(n)) / n * 2 - 1 for _ in fields(Traits)]
    digits, n_of_kind, faces = max(2, len(str(n))), (n - n // 2, n // 2), []
    for i in range(n):
        is_lion, k = divmod(i, n_of_kind[0])
        lion = 0.3 * (((k + 1) * GOLDEN + 0.5 * is_lion) % 1) + 0.7 * is_lion
        turn = (k + 0.5 + 0.6 * (rng.random() - 0.5)) / n_of_kind[is_lion] * 2 - 1
        traits = Traits(*(round(float(values[i]), 3) for values in spread))
        faces.append(Face(f"face_{i + 1:0{digits}d}", round(lion, 3), round(turn, 3), traits))
    return faces


def draw_set(n: int = 24, size: int = 256, seed: int = 0) -> Iterator[tuple[Face, Image.Image]]:
    """The animals of plan_set, one by one, each with its picture."""
    for face in plan_set(n, seed):
        yield face, draw_face(face.lion, face.turn, face.traits, size)


def write_set(config, given):
    """Write the animals as PNG and their factors and traits as factors.csv."""
    folder, rows = Path(config.out), []
    folder.mkdir(parents=True, exist_ok=True)
    for face, image in draw_set(config.n, config.size, config.seed):
        image.save(folder / f"{face.name}.png", optimize=True)
        factors = {"name": face.name, "lion": face.lion, "turn": face.turn}
        rows.append(factors | asdict(face.traits))
    write_csv(folder / "factors.csv", rows)


if __name__ == "__main__":
    sys.exit(run_program("python -m data.draw", __doc__, {"": (DrawConfig, write_set)}))
