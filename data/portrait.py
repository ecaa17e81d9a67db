"""The canvas of a drawn face: curves, and a head whose outlines are projected to the screen.

Face coordinates: u to the right, v down, z towards the viewer; a head is about 1.5 wide and 1.6
high. Screen coordinates: x to the right, y down; the picture is [-1, 1] x [-1, 1]. Colours are RGB
in [0, 255].
"""
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

MAX_YAW = np.radians(25)     # the head's yaw at turn = 1
PIVOT = 0.30                 # depth of the axis about which the head turns
OVERSAMPLE = 3               # outlines are drawn at this multiple of the size and averaged
FORMS = [(.21, -.25, .15, .09, .03), (.26, -.10, .13, .08, -.05),    # brows, eyes: u, v, ru, rv,
         (.42, .12, .20, .20, .04), (.14, .44, .13, .12, .06),       # height; cheeks, lips,
         (0, .05, .10, .34, .045), (0, .67, .14, .09, .03),          # bridge of the nose, chin,
         (0, -.45, .06, .20, -.02)]                                  # forehead


def spline(points, closed: bool = False, n: int = 8) -> np.ndarray:
    """Catmull-Rom curve through points (k, 2), n steps per piece -> (m, 2)."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]] if closed
                       else [2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, n, endpoint=False)[:, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    square, cube = a - 2.5 * b + 2 * c - d / 2, 1.5 * (b - c) + (d - a) / 2
    curve = b + t * (c - a) / 2 + t**2 * square + t**3 * cube
    return np.concatenate([curve.reshape(-1, 2), p[-2:-1][:not closed]])


def offsets(line):
    """Unit normals along lines (..., n, 2)."""
    tangent = np.gradient(line, axis=-2)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], -1)
    return normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9)


def ribbon(points, width: float, root: float = 0.0) -> np.ndarray:
    """A stroke along spline(points): `width` wide near its middle, root * width at its start."""
    line = spline(points)
    t = np.linspace(0, 1, len(line))
    profile = np.maximum(np.sin(np.pi * t**0.8), root * (1 - t) ** 0.7)
    half = width / 2 * profile[:, None] * offsets(line)
    return np.concatenate([line + half, (line - half)[::-1]])


def oval(u: float, v: float, ru: float, rv: float) -> np.ndarray:
    """Ellipse around (u, v) with radii ru, rv -> (36, 2)."""
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return np.stack([u + ru * np.cos(angle), v + rv * np.sin(angle)], 1)


def symmetric(right) -> np.ndarray:
    """Closed outline from its right half, listed from the top of the axis to the bottom."""
    return spline(np.concatenate([right, np.multiply(right[-2:0:-1], (-1, 1))]), closed=True)


def smoothstep(x, low: float, high: float):
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a, b, t):
    return np.asarray(a, np.float32) * (1 - t) + np.asarray(b, np.float32) * t


class Portrait:
    """A float image rgb (size, size, 3) of a turned head; the face point (u, v) of each pixel."""

    def __init__(self, size: int, lion: float, turn: float, muzzle: float):
        grid = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        self.x, self.y = np.meshgrid(grid, grid)
        self.size, self.rgb = size, np.zeros((size, size, 3), np.float32)
        self.sin, self.cos = np.sin(turn * MAX_YAW), np.cos(turn * MAX_YAW)
        self.scale = 1.07 - 0.15 * lion             # room for the mane
        self.muzzle = 0.30 * muzzle
        self.v = (self.y - 0.06) / self.scale
        x = self.x / self.scale
        self.u = x.copy()
        for _ in range(5):      # Newton: the u that is projected to x; x(u) is increasing
            z, slope = self.height(self.u, self.v)
            miss = self.u * self.cos + (z - PIVOT) * self.sin - x
            self.u -= miss / (self.cos + slope * self.sin)

    def height(self, u, v):
        """z(u, v) and dz/du: a rounded head with a muzzle on it."""
        head = 0.60 * np.exp(-((u / 0.66) ** 2) - (v / 0.85) ** 2)
        muzzle = 0.33 * np.exp(-((u / self.muzzle) ** 2) - ((v - 0.40) / 0.30) ** 2)
        return head + muzzle, -2 * u * (head / 0.66**2 + muzzle / self.muzzle**2)

    def project(self, points, z=None) -> np.ndarray:
        """Face points (..., 2) -> pixel coordinates (..., 2); z: depth, of the surface if None."""
        u, v = points[..., 0], points[..., 1]
        z = self.height(u, v)[0] if z is None else z
        x = (u * self.cos + (z - PIVOT) * self.sin) * self.scale
        xy = np.stack([x, v * self.scale + 0.06], -1)
        return (xy + 1) / 2 * self.size

    def blend(self, mask, colour, box=np.s_[:, :]):
        """Paints colour (3,) or (h, w, 3) through mask (h, w) in [0, 1]."""
        view = self.rgb[box]
        view += mask[..., None] * (np.asarray(colour, np.float32) - view)

    def mask(self, outlines, blur: float = 0, z=None, both=False):
        """Antialiased union of outlines, and of their mirror images if both -> its box in the
        picture, mask (h, w) in [0, 1]. blur: std in screen units; z: see project."""
        shapes = [self.project(o * (side, 1), z) for side in (1, -1)[: 1 + both] for o in outlines]
        sigma, k = float(blur / 2 * self.size), OVERSAMPLE
        points = np.concatenate(shapes)
        low = np.clip(np.floor(points.min(0) - 3 * sigma - 1), 0, self.size - 1).astype(int)
        high = np.clip(np.ceil(points.max(0) + 3 * sigma + 1), low + 1, self.size).astype(int)
        layer = Image.new("L", tuple(((high - low) * k).tolist()))
        pen = ImageDraw.Draw(layer)
        for shape in shapes:
            pen.polygon(((shape - low) * k - 0.5).ravel().tolist(), fill=255)
        layer = layer.reduce(k).filter(ImageFilter.GaussianBlur(sigma))
        return np.s_[low[1]:high[1], low[0]:high[0]], np.asarray(layer, np.float32) / 255

    def stencil(self, *args, **kwargs):
        """A mask as large as the picture: (size, size) in [0, 1]."""
        full = np.zeros((self.size, self.size), np.float32)
        box, full[box] = self.mask(*args, **kwargs)
        return full

    def fill(self, outlines, colour, alpha=1.0, blur=0.0, clip=None, z=None, both=False):
        """Paints outlines in one colour. clip: mask (size, size) that bounds the paint."""
        if alpha > 0:
            box, mask = self.mask(outlines, blur, z, both)
            self.blend(mask * alpha * (1 if clip is None else clip[box]), colour, box)

    def spot(self, u: float, v: float, ru: float, rv: float, power: float = 1):
        """A soft spot around (+-u, v), sharper with larger power -> (size, size) in [0, 1]."""
        return np.exp(-((((np.abs(self.u) - u) / ru) ** 2 + ((self.v - v) / rv) ** 2) ** power))

    def light(self):
        """Lambert shading of the height map with FORMS -> (size, size) in about [.6, 1.1]."""
        z = self.height(self.u, self.v)[0]
        for *place, h in FORMS:
            z = z + h * self.spot(*place)
        zy, zx = np.gradient((z * self.cos - self.u * self.sin) * self.scale, 2 / self.size)
        zx, zy = 0.6 * zx, 0.6 * zy         # flatter than the head, for soft light from upper left
        return 0.56 + 0.5 * (0.30 * zx + 0.42 * zy + 0.85) / np.sqrt(1 + zx**2 + zy**2)
