"""Cars, trucks, buses and trams: solids with windows, wheels and lights on them.

An object's own axes are those of `camera.Frame`: x right, y up, z to its front, metres.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpanet_jax.streets.camera import Frame, Point
from dpanet_jax.streets.canvas import Canvas, Color, Label, Material, scaled

BLACK = (0.03, 0.03, 0.035)
RUBBER = (0.05, 0.05, 0.05)
CIRCLE = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 13)[:-1].tolist()]

# One paint shop for all that is painted, so that a colour does not give a class away.
PAINTS = [
    (0.80, 0.80, 0.78), (0.55, 0.56, 0.58), (0.30, 0.31, 0.33), (0.07, 0.07, 0.08),
    (0.62, 0.10, 0.09), (0.12, 0.22, 0.48), (0.10, 0.36, 0.40), (0.76, 0.60, 0.18),
    (0.20, 0.38, 0.20), (0.72, 0.42, 0.16), (0.66, 0.60, 0.48), (0.45, 0.25, 0.18),
]  # fmt: skip


def paint(rng: np.random.Generator) -> Color:
    """A colour of the paint shop, slightly its own."""
    base = PAINTS[int(rng.integers(len(PAINTS)))]
    r, g, b = (float(v) for v in np.asarray(base) * rng.uniform(0.8, 1.15, 3))
    return (r, g, b)


class Body:
    """Draws the solids and the details of one vehicle with one label."""

    def __init__(self, canvas: Canvas, frame: Frame, label: Label) -> None:
        self.canvas, self.frame, self.label = canvas, frame, label

    def plane(self, points: Sequence[Point], color: Color, **how: Any) -> None:
        """A polygon in the vehicle's axes, clockwise as seen from outside; unseen from behind."""
        self.canvas.face(self.frame.place(points), self.label, color, cull=True, **how)

    def prism(
        self,
        profile: Sequence[tuple[float, float]],
        halves: Sequence[float],
        color: Color,
        strips: dict[int, Color] | None = None,
        material: Material = Material.PLAIN,
    ) -> None:
        """A side view (z, y), clockwise seen from the right, given a half width at each corner.

        strips: colours of the faces that start at a corner, where they differ from the body's.
        """
        n = len(profile)
        # Far strips first: only a bonnet before its windscreen makes the order matter.
        for i in sorted(range(n), key=lambda i: self._distance(profile[i], profile[(i + 1) % n])):
            (z0, y0), (z1, y1) = profile[i], profile[(i + 1) % n]
            w0, w1 = halves[i], halves[(i + 1) % n]
            self.plane(
                [(-w0, y0, z0), (-w1, y1, z1), (w1, y1, z1), (w0, y0, z0)],
                (strips or {}).get(i, color),
            )
        right = [(w, y, z) for w, (z, y) in zip(halves, profile, strict=True)]
        self.plane(right, color, material=material)
        self.plane([(-x, y, z) for x, y, z in right[::-1]], color, material=material)

    def _distance(self, a: tuple[float, float], b: tuple[float, float]) -> float:
        (x, y, z) = self.frame.place([(0, (a[1] + b[1]) / 2, (a[0] + b[0]) / 2)])[0]
        cx, cy, cz = self.canvas.camera.position
        return -((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)

    def box(
        self,
        half: float,
        low: float,
        high: float,
        back: float,
        front: float,
        color: Color,
        material: Material = Material.PLAIN,
    ) -> None:
        """An upright box of half width `half`."""
        profile = [(back, low), (back, high), (front, high), (front, low)]
        self.prism(profile, [half] * 4, color, material=material)

    def side(
        self,
        half: float,
        z0: float,
        z1: float,
        y0: float,
        y1: float,
        color: Color,
        sides: Sequence[int] = (-1, 1),
        **how: Any,
    ) -> None:
        """A rectangle on the right (1) and left (-1) side at x = ± half."""
        corners = [(y0, z0), (y1, z0), (y1, z1), (y0, z1)]
        for sign in sides:
            points = [(sign * half, y, z) for y, z in corners]
            self.plane(points if sign > 0 else points[::-1], color, **how)

    def end(self, z: float, x0: float, x1: float, y0: float, y1: float, color: Color, **how: Any) -> None:
        """A rectangle on the front (z > 0) or the back (z < 0)."""
        points = [(x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)]
        self.plane(points[::-1] if z > 0 else points, color, **how)

    def wheels(self, half: float, radius: float, places: Sequence[float], hub: Color) -> None:
        """Wheels at z = places on both sides."""
        for sign in (-1, 1):
            for z in places:
                for r, color in ((radius, RUBBER), (radius * 0.58, hub)):
                    ring = [(sign * half, radius + r * y, z + r * x) for x, y in CIRCLE]
                    self.plane(ring[::-1] if sign > 0 else ring, color)

    def lights(self, half: float, front: float, back: float, y: float, size: float, night: bool) -> None:
        """Head lamps and tail lamps."""
        for x in (-half + size, half - size):
            self.end(front, x - size, x + size, y, y + size, (0.9, 0.9, 0.82), glow=1.3 if night else 0)
            self.end(
                back, x - size, x + size, y, y + size * 1.2, (0.65, 0.05, 0.05),
                glow=0.6 if night else 0.12,
            )  # fmt: skip


def glass(rng: np.random.Generator) -> Color:
    """Window glass: dark, bluish or grey."""
    tone = rng.uniform(0.05, 0.22)
    return (tone * 0.85, tone, tone * 1.1)


def draw_car(canvas: Canvas, frame: Frame, rng: np.random.Generator, night: bool) -> None:
    """A car of about 4.3 × 1.8 × 1.5 m: saloon, estate, hatchback or van."""
    body = Body(canvas, frame, Label.CAR)
    kind = int(rng.integers(4))
    half = rng.uniform(0.86, 0.96)
    long, top = [(4.6, 1.45), (4.7, 1.5), (3.9, 1.5), (4.9, 1.95)][kind]
    top *= rng.uniform(0.96, 1.08)
    front, back, belt = long / 2, -long / 2, 0.95 if kind < 3 else 1.1
    color, pane = paint(rng), glass(rng)
    # Rear and front ends of the cabin, at the belt and at the roof.
    foot, rear, fore, head = [
        (back + 0.75, back + 1.35, 0.35, 1.15), (back + 0.06, back + 0.45, 0.3, 1.15),
        (back + 0.05, back + 0.5, 0.25, 1.0), (back + 0.03, back + 0.15, 1.0, 1.75),
    ][kind]  # fmt: skip
    dark = scaled(color, 0.45)
    body.box(half - 0.12, 0.02, 0.4, back + 0.5, front - 0.5, BLACK)
    for z in (back + 0.85, front - 0.85):
        body.box(half - 0.02, 0.0, 0.5, z - 0.3, z + 0.3, RUBBER)
    body.prism(
        [(back, 0.3), (back, belt - 0.1), (back + 0.12, belt), (front - 1.0, belt - 0.02),
         (front - 0.06, belt - 0.22), (front, 0.28)],
        [half - 0.03, half, half, half, half - 0.04, half - 0.06], color,
    )  # fmt: skip
    low, high = half - 0.05, half - 0.2
    cabin = [(foot, belt), (rear, top), (fore, top), (head, belt)]
    body.prism(cabin, [low, high, high, low], color, {0: pane, 2: pane})
    middle = (foot + head) / 2 - 0.1
    for z0, z1 in ((foot + 0.14, middle - 0.05), (middle + 0.05, head - 0.12)):
        ys = (belt + 0.03, top - 0.1)
        for sign in (-1, 1):
            points = []
            for z, y in ((z0, ys[0]), (z0, ys[1]), (z1, ys[1]), (z1, ys[0])):
                part = (y - belt) / (top - belt)
                z = max(z, foot + (rear - foot) * part + 0.07)
                z = min(z, head + (fore - head) * part - 0.07)
                points.append((sign * (low + (high - low) * part + 0.005), y, z))
            body.plane(points if sign > 0 else points[::-1], pane, material=Material.GLASS)
    body.side(half + 0.005, middle - 0.03, middle, 0.4, belt, dark)
    body.side(half + 0.005, back + 0.3, front - 0.3, 0.3, 0.38, dark)
    body.wheels(half + 0.01, 0.33, (back + 0.85, front - 0.85), (0.45, 0.45, 0.47))
    body.end(front + 0.01, -0.45, 0.45, 0.36, 0.56, BLACK)
    body.end(back - 0.01, -half + 0.05, half - 0.05, 0.3, 0.42, dark)
    for z in (front + 0.02, back - 0.02):
        body.end(z, -0.27, 0.27, 0.46, 0.58, (0.8, 0.8, 0.75))
    body.lights(half, front + 0.03, back - 0.02, 0.6, 0.17, night)


def draw_truck(canvas: Canvas, frame: Frame, rng: np.random.Generator, night: bool) -> None:
    """A lorry of about 8 × 2.5 × 3.5 m: closed box, tipper or tank behind a cab."""
    body = Body(canvas, frame, Label.TRUCK)
    kind = rng.choice(["box", "tipper", "tank"], p=[0.6, 0.25, 0.15])
    long = rng.uniform(6.5, 9.0)
    front, back, half = long / 2, -long / 2, 1.25
    cab = front - rng.uniform(1.9, 2.3)
    top, color, load = rng.uniform(2.6, 2.9), paint(rng), paint(rng)
    coming = abs(math.cos(math.atan2(frame.sin, frame.cos)) + 1) < 0.3
    body.box(half - 0.25, 0.45, 0.95, back + 0.1, front - 0.3, BLACK)
    for z in (back + 0.8, back + 1.9, front - 1.1):
        body.box(half - 0.03, 0.0, 0.95, z - 0.4, z + 0.4, RUBBER)

    def draw_load() -> None:
        end = cab - 0.25
        if kind == "tank":
            r = 1.1
            ring = [(r * x, 2.0 + r * y) for x, y in CIRCLE]
            for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
                shade = scaled(load, 0.75 + 0.25 * (y0 - 0.9) / 2.2)
                body.plane([(x1, y1, back), (x1, y1, end), (x0, y0, end), (x0, y0, back)], shade)
            body.plane([(x, y, back) for x, y in ring[::-1]], load)
        elif kind == "tipper":
            body.box(half, 0.95, 2.1, back, end, load, Material.RIBS)
            mound = [(back + 0.3, 2.1), (back + 1.2, 2.7), (end - 1, 2.6), (end - 0.3, 2.1)]
            body.prism(mound, [half - 0.2, 0.4, 0.4, half - 0.2], (0.36, 0.30, 0.23))
            for x in (-0.8, 0.75):
                body.end(back - 0.01, x, x + 0.1, 0.95, 2.1, scaled(load, 0.6))
        else:
            high = rng.uniform(3.2, 3.8)
            ribs = Material.RIBS if rng.random() < 0.5 else Material.PLAIN
            body.box(half, 0.95, high, back, end, load, ribs)
            if rng.random() < 0.5:
                stripe = paint(rng)
                body.side(half + 0.01, back + 0.6, end - 0.6, 1.6, 2.6, stripe)
            edge = scaled(load, 0.45)
            body.end(back - 0.01, -0.03, 0.03, 1.0, high - 0.1, edge)
            for x in (-half, half - 0.09):
                body.end(back - 0.01, x, x + 0.09, 0.95, high, edge)
            body.end(back - 0.01, -half, half, high - 0.12, high, edge)
            body.end(back - 0.01, -half, half, 0.95, 1.1, edge)
            for x in (-0.35, 0.27):
                body.end(back - 0.02, x, x + 0.08, 1.1, high - 0.2, (0.5, 0.5, 0.5))

    def draw_cab() -> None:
        body.prism(
            [(cab, 0.55), (cab, top), (front - 0.45, top), (front - 0.05, 1.5), (front, 0.45)],
            [half - 0.05] * 5, color,
        )  # fmt: skip
        pane = glass(rng)
        z0, z1 = front - 0.42, front - 0.06
        body.plane(
            [(1.1, 1.55, z1 + 0.03), (1.05, top - 0.2, z0 + 0.03), (-1.05, top - 0.2, z0 + 0.03),
             (-1.1, 1.55, z1 + 0.03)], pane, material=Material.GLASS,
        )  # fmt: skip
        body.side(half - 0.04, cab + 0.6, front - 0.5, 1.6, top - 0.25, pane)
        body.end(front + 0.01, -0.8, 0.8, 0.85, 1.3, scaled(color, 0.4))
        body.end(front + 0.02, -half + 0.05, half - 0.05, 0.4, 0.62, BLACK)

    if coming:
        draw_load()
        draw_cab()
    else:
        draw_cab()
        draw_load()
    body.end(back - 0.02, -half + 0.05, half - 0.05, 0.5, 0.72, BLACK)
    places = (back + 0.8, back + 1.9, front - 1.1)
    body.wheels(half + 0.01, 0.48, places, (0.5, 0.5, 0.5))
    body.lights(half, front + 0.03, back - 0.03, 0.66, 0.2, night)


def draw_bus(canvas: Canvas, frame: Frame, rng: np.random.Generator, night: bool) -> None:
    """A city bus of about 11 × 2.5 × 3.1 m, sometimes with two decks."""
    body = Body(canvas, frame, Label.BUS)
    long, half = rng.uniform(9.5, 12.0), 1.27
    decks = 2 if rng.random() < 0.15 else 1
    top = 4.3 if decks == 2 else rng.uniform(3.0, 3.2)
    front, back = long / 2, -long / 2
    color, trim, pane = paint(rng), paint(rng), glass(rng)
    shine = 0.5 if night else 0.0
    body.box(half - 0.1, 0.05, 0.5, back + 0.3, front - 0.3, BLACK)
    body.prism(
        [(back, 0.32), (back, top - 0.2), (back + 0.15, top), (front - 0.25, top),
         (front, top - 0.35), (front + 0.04, 0.3)],
        [half, half, half - 0.12, half - 0.12, half, half], color,
    )  # fmt: skip
    body.side(half + 0.004, back, front, 0.32, 0.75, trim)
    body.side(half + 0.004, back + 0.1, front - 0.1, 0.75, 0.85, scaled(color, 0.6))
    for deck in range(decks):
        low = 1.25 + 1.75 * deck
        count = int(long / 1.5)
        step = (long - 0.7) / count
        body.side(half + 0.006, back + 0.3, front - 0.25, low - 0.03, low + 1.23, BLACK)
        for i in range(count):
            z = back + 0.35 + i * step
            body.side(
                half + 0.01, z + 0.04, z + step - 0.04, low, low + 1.2, pane,
                material=Material.GLASS, glow=shine,
            )  # fmt: skip
    for z in (front - 1.35, 0.2):
        body.side(half + 0.015, z, z + 1.1, 0.35, 2.5, BLACK, sides=(1,))
        for part in (0.05, 0.58):
            body.side(half + 0.02, z + part, z + part + 0.45, 0.5, 2.4, pane, sides=(1,), glow=shine)
    body.end(front + 0.05, -half + 0.08, half - 0.08, 1.05, 2.45, pane, material=Material.GLASS)
    body.end(front + 0.05, -half + 0.15, half - 0.15, 2.5, 2.78, BLACK)
    body.end(front + 0.06, -0.75, 0.75, 2.54, 2.74, (0.95, 0.6, 0.12), glow=0.7)
    body.end(front + 0.05, -half, half, 0.3, 0.5, BLACK)
    body.end(back - 0.01, -half + 0.2, half - 0.2, 1.5, 2.4, pane, material=Material.GLASS)
    body.end(back - 0.01, -half + 0.2, half - 0.2, 0.7, 1.25, scaled(color, 0.5))
    body.end(back - 0.01, -0.5, 0.5, 2.5, 2.72, BLACK)
    body.end(back - 0.02, -0.35, 0.35, 2.54, 2.68, (0.95, 0.6, 0.12), glow=0.6)
    body.wheels(half + 0.02, 0.47, (back + 2.3, front - 2.4), (0.5, 0.5, 0.5))
    body.lights(half, front + 0.07, back - 0.02, 0.6, 0.17, night)


def draw_tram(canvas: Canvas, frame: Frame, rng: np.random.Generator, night: bool, long: float) -> None:
    """A tram of the given length, 2.5 × 3.4 m, in sections that share their joints."""
    body = Body(canvas, frame, Label.TRAIN)
    half, top = 1.28, rng.uniform(3.3, 3.6)
    front, back = long / 2, -long / 2
    color, trim, pane = paint(rng), paint(rng), glass(rng)
    skirt = scaled(color, 0.35)
    shine = 0.5 if night else 0.0
    body.box(half - 0.5, top - 0.1, top + 0.35, back + 2.5, front - 2.5, (0.4, 0.4, 0.42))
    nose = 0.75
    body.prism(
        [(back + 0.1, 0.12), (back, 1.15), (back + nose, top - 0.15), (back + nose + 0.3, top),
         (front - nose - 0.3, top), (front - nose, top - 0.15), (front, 1.15), (front - 0.1, 0.12)],
        [half - 0.15, half - 0.1, half - 0.2, half - 0.2, half - 0.2, half - 0.2, half - 0.1,
         half - 0.15], color,
    )  # fmt: skip
    ends = (back + nose, front - nose)
    body.side(half - 0.12, *ends, 0.12, top - 0.05, color)
    body.side(half - 0.11, *ends, 0.12, 0.5, skirt)
    body.side(half - 0.11, *ends, 0.5, 1.0, trim)
    body.side(half - 0.11, *ends, 1.25, top - 0.6, BLACK)
    sections = max(2, round(long / 7))
    size = (ends[1] - ends[0]) / sections
    for i in range(sections):
        z = ends[0] + i * size
        for j in range(4):
            z0 = z + 0.35 + j * (size - 0.7) / 4
            z1 = z0 + (size - 0.7) / 4 - 0.1
            low = 0.3 if j == 1 else 1.3
            body.side(half - 0.1, z0, z1, low, top - 0.65, pane, glow=shine)
        if i:
            body.side(half - 0.09, z - 0.22, z + 0.22, 0.12, top - 0.02, (0.09, 0.09, 0.1))
    for sign, z in ((1, front), (-1, back)):
        z0, z1 = z + sign * 0.02, z - sign * (nose - 0.12)
        points = [(1.0, 1.3, z0 - sign * 0.05), (0.95, top - 0.5, z1), (-0.95, top - 0.5, z1),
                  (-1.0, 1.3, z0 - sign * 0.05)]  # fmt: skip
        body.plane(points if sign > 0 else points[::-1], pane, material=Material.GLASS)
        body.end(z0 + sign * 0.01, -1.1, 1.1, 0.75, 1.1, trim)
        body.end(z0, -1.0, 1.0, 0.12, 0.35, BLACK)
        line = z1 + sign * 0.14
        body.end(line, -0.6, 0.6, top - 0.42, top - 0.2, (0.95, 0.6, 0.12), glow=0.7)
    body.lights(half - 0.2, front + 0.05, back - 0.05, 0.8, 0.17, night)
