"""What stands along the street: trees, bushes, lamps, traffic lights and signs."""

import math

import numpy as np

from dpanet_jax.streets.blocks import green
from dpanet_jax.streets.camera import Frame, Point
from dpanet_jax.streets.canvas import Canvas, Color, Label, Material, scaled
from dpanet_jax.streets.vehicles import BLACK, CIRCLE

METALS = [(0.42, 0.43, 0.44), (0.22, 0.23, 0.24), (0.55, 0.55, 0.54), (0.14, 0.2, 0.16)]
BARK = (0.22, 0.16, 0.11)
RED, BLUE, WHITE, YELLOW = (
    (0.66, 0.06, 0.07),
    (0.07, 0.2, 0.55),
    (0.82, 0.82, 0.8),
    (0.85, 0.68, 0.1),
)


def rectangle(x: float, y: float, half: float, high: float) -> list[tuple[float, float]]:
    """Corners of a cut-out that stands on (x, y)."""
    return [(x - half, y), (x - half, y + high), (x + half, y + high), (x + half, y)]


def disc(
    x: float, y: float, radius: float, corners: int = 12, turn: float = 0.0
) -> list[tuple[float, float]]:
    """A circle or a regular polygon around (x, y)."""
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(x + radius * math.sin(a), y + radius * math.cos(a)) for a in angles]


def draw_tree(canvas: Canvas, frame: Frame, rng: np.random.Generator, sun: Point | None, size: float) -> None:
    """A tree of height `size` metres: broad or like a fir, with leaves lit from above."""
    color = green(rng)
    trunk = max(0.13, size * 0.03)
    canvas.cut_out(frame, rectangle(0, 0, trunk, size * 0.6), Label.VEGETATION, BARK,
                   Material.LEAVES)  # fmt: skip
    clumps = []
    if rng.random() < 0.2:
        for level in np.linspace(0.25, 0.9, 6).tolist():
            clumps.append((0.0, size * level, size * 0.27 * (1.08 - level), size * 0.16))
    else:
        spread, base = size * rng.uniform(0.22, 0.34), size * rng.uniform(0.3, 0.42)
        for _ in range(int(rng.integers(6, 10))):
            angle, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
            y = (base + size) / 2 + (size - base) * 0.36 * r * math.sin(angle)
            clumps.append((spread * r * math.cos(angle) * 0.8, y, spread * 0.62, spread * 0.6))
    for x, y, wide, high in sorted(clumps, key=lambda c: c[1]):
        shade = 0.7 + 0.5 * (y / size) ** 2
        points = [
            (x + wide * cx * w, y + high * cy * w)
            for (cx, cy), w in zip(CIRCLE, rng.uniform(0.72, 1.2, 12).tolist(), strict=True)
        ]
        canvas.cut_out(frame, points, Label.VEGETATION, scaled(color, shade),
                       Material.LEAVES)  # fmt: skip
    foot = frame.place([(trunk * x, 0, trunk * z) for x, z in CIRCLE[::3]])
    canvas.cast(foot, 0, size * 0.5, sun)
    wide = max(abs(c[0]) + c[2] for c in clumps)
    crown = frame.place(
        [(wide * x * w, 0, wide * z * w) for (x, z), w in zip(CIRCLE, rng.uniform(0.7, 1.1, 12), strict=True)]
    )
    canvas.cast(crown, size * 0.45, size * 0.8, sun)


def draw_bush(canvas: Canvas, frame: Frame, rng: np.random.Generator, size: float) -> None:
    """A round bush, as wide as high."""
    color = green(rng)
    for x in (-0.45, 0.4, 0.0):
        r = size * rng.uniform(0.4, 0.55)
        points = [
            (x * size + r * cx * w, max(size * 0.42 + r * cy * w, 0))
            for (cx, cy), w in zip(CIRCLE, rng.uniform(0.8, 1.15, 12).tolist(), strict=True)
        ]
        canvas.cut_out(frame, points, Label.VEGETATION, color, Material.LEAVES)
    foot = frame.place([(size * 0.7 * x, 0, size * 0.4 * z) for x, z in CIRCLE])
    canvas.cast(foot, 0, 0.1, None)


def pole_width(canvas: Canvas, frame: Frame, width: float) -> float:
    """The width in metres, but never thinner than about three pixels of the final picture."""
    depth = canvas.camera.to_view(frame.origin)[2]
    return max(1.5 * width, 6.4 * depth / canvas.camera.focal)


def draw_pole(
    canvas: Canvas, frame: Frame, high: float, width: float, color: Color, sun: Point | None
) -> float:
    """An upright pole; returns the width it was drawn with."""
    width = pole_width(canvas, frame, width)
    dark = scaled(color, 0.6)
    canvas.cut_out(frame, rectangle(0, 0, width / 2, high), Label.POLE, color)
    canvas.cut_out(frame, rectangle(width / 4, 0, width / 4, high), Label.POLE, dark)
    r = width / 2
    canvas.cast(frame.place([(-r, 0, -r), (-r, 0, r), (r, 0, r), (r, 0, -r)]), 0, high, sun)
    return width


def draw_lamp(
    canvas: Canvas, frame: Frame, rng: np.random.Generator, sun: Point | None, night: bool, arm: float
) -> None:
    """A street lamp whose arm reaches `arm` metres to the right (left when negative)."""
    color, high = METALS[int(rng.integers(4))], rng.uniform(5.5, 8)
    width = draw_pole(canvas, frame, high, rng.uniform(0.18, 0.26), color, sun)
    half = width * 0.4
    canvas.cut_out(frame, [(0, high - half), (0, high + half), (arm, high + 0.4 + half),
                           (arm, high + 0.4 - half)], Label.POLE, color)  # fmt: skip
    x = arm * 0.85
    canvas.cut_out(
        frame,
        [
            (x - 0.35, high + 0.2),
            (x - 0.25, high + 0.5),
            (x + 0.25, high + 0.5),
            (x + 0.35, high + 0.2),
        ],
        Label.POLE,
        scaled(color, 0.7),
    )
    canvas.cut_out(frame, rectangle(x, high + 0.12, 0.3, 0.1), Label.POLE, (0.9, 0.85, 0.7),
                   glow=1.4 if night else 0)  # fmt: skip


def draw_traffic_light(
    canvas: Canvas, frame: Frame, rng: np.random.Generator, sun: Point | None, arm: float
) -> None:
    """A signal on a pole, and a second one on an arm where `arm` is not 0."""
    color = METALS[int(rng.integers(4))]
    high = rng.uniform(2.7, 3.3)
    lit = int(rng.integers(3))
    top = high + 1.25 if arm == 0 else rng.uniform(5.4, 6.0)
    width = draw_pole(canvas, frame, top - 0.1, 0.2, color, sun)
    if arm:
        half = width * 0.4
        canvas.cut_out(frame, [(0, top - half), (0, top + half), (arm, top + half),
                               (arm, top - half)], Label.POLE, color)  # fmt: skip
        _draw_signal(canvas, frame, arm, top - 1.2, lit)
    _draw_signal(canvas, frame, 0, high, lit)


def _draw_signal(canvas: Canvas, frame: Frame, x: float, y: float, lit: int) -> None:
    label = Label.TRAFFIC_LIGHT
    half = max(0.38, pole_width(canvas, frame, 0) * 0.9)
    high = half * 4.2
    canvas.cut_out(frame, rectangle(x, y, half, high), label, BLACK)
    lamps = [(0.2, 0.9, 0.45), (1.0, 0.65, 0.1), (1.0, 0.12, 0.08)]
    for i, color in enumerate(lamps):
        on = i == lit
        dim = color if on else scaled(color, 0.14)
        at = disc(x, y + high * (i + 0.5) / 3, half * 0.72)
        canvas.cut_out(frame, at, label, dim, glow=1.1 if on else 0)


def draw_sign(canvas: Canvas, frame: Frame, rng: np.random.Generator, sun: Point | None, board: bool) -> None:
    """One or two signs on a pole, or a large direction board on two."""
    label = Label.TRAFFIC_SIGN
    color = METALS[int(rng.integers(4))]
    seen_from_behind = rng.random() < 0.12
    if board:
        half, low, high = rng.uniform(1.3, 1.9), rng.uniform(2.4, 3), rng.uniform(1.2, 1.7)
        face = [BLUE, (0.05, 0.32, 0.18), YELLOW, WHITE][int(rng.integers(4))]
        for x in (-half * 0.7, half * 0.7):
            side = Frame(canvas.camera, 0, 0)
            side.origin = frame.flat([(x, 0)])[0]
            draw_pole(canvas, side, low + 0.3, 0.18, color, sun)
        ink = BLACK if face in (YELLOW, WHITE) else WHITE
        canvas.cut_out(frame, rectangle(0, low, half, high), label, ink)
        canvas.cut_out(frame, rectangle(0, low + 0.07, half - 0.07, high - 0.14), label, face)
        for i in range(2):
            y, x = low + high * (0.24 + 0.34 * i), half * rng.uniform(0.35, 0.6)
            canvas.cut_out(frame, rectangle(-half * 0.2, y, x, 0.18), label, ink)
        return
    high = rng.uniform(2.6, 3.4)
    draw_pole(canvas, frame, high + 0.3, 0.17, color, sun)
    size = max(0.62, pole_width(canvas, frame, 0) * 1.3)
    for i in range(2 if rng.random() < 0.35 else 1):
        _draw_plate(canvas, frame, rng, high - i * size * 2.05, size, seen_from_behind)


def _draw_plate(
    canvas: Canvas, frame: Frame, rng: np.random.Generator, y: float, size: float, behind: bool
) -> None:
    label = Label.TRAFFIC_SIGN
    kind = rng.choice(["ban", "must", "danger", "stop", "yield", "square", "priority"])
    corners, turn = {
        "ban": (12, 0), "must": (12, 0), "danger": (3, 0), "stop": (8, math.pi / 8),
        "yield": (3, math.pi), "square": (4, math.pi / 4), "priority": (4, 0),
    }[kind]  # fmt: skip
    scale = {3: 1.25, 4: 1.25}.get(corners, 1.0) * size
    rim, face = {
        "ban": (RED, WHITE), "must": (WHITE, BLUE), "danger": (RED, WHITE), "stop": (WHITE, RED),
        "yield": (RED, WHITE), "square": (WHITE, BLUE), "priority": (WHITE, YELLOW),
    }[kind]  # fmt: skip
    if behind:
        rim, face = (0.3, 0.3, 0.31), (0.36, 0.36, 0.37)
    canvas.cut_out(frame, disc(0, y, scale, corners, turn), label, rim)
    inner = scale * (0.68 if rim == RED else 0.85)
    canvas.cut_out(frame, disc(0, y, inner, corners, turn), label, face)
    if behind or kind in ("yield", "priority"):
        return
    ink = BLACK if face == WHITE else WHITE
    half, high = (0.45, 0.22) if kind == "stop" else (0.12, 0.55)
    high = min(high, 0.3) if kind == "danger" else high
    canvas.cut_out(frame, rectangle(0, y - high * size, half * size, 2 * high * size), label, ink)
