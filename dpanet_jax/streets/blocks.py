"""What lines the street: buildings, walls, fences and hedges. `side` is -1 on the left, 1 on the right."""

from collections.abc import Sequence

import numpy as np

from dpanet_jax.streets.camera import Point
from dpanet_jax.streets.canvas import Canvas, Color, Label, Material, scaled
from dpanet_jax.streets.vehicles import paint

GREENS = [(0.17, 0.27, 0.09), (0.24, 0.34, 0.12), (0.13, 0.24, 0.12), (0.33, 0.36, 0.14)]


def gray(rng: np.random.Generator) -> Color:
    """Asphalt, concrete, plaster: one range of greys for roads, sidewalks, walls and houses."""
    tone = rng.uniform(0.24, 0.58)
    warm = rng.normal(0, 0.02)
    return (tone + warm, tone, tone - warm)


def stone(rng: np.random.Generator) -> Color:
    """What houses and walls are made of: grey, ochre, brick or the paint shop's colours."""
    kind = rng.random()
    if kind < 0.3:
        return gray(rng)
    if kind < 0.55:
        r, g, b = np.array([0.66, 0.57, 0.44]) * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03, 3)
    elif kind < 0.78:
        r, g, b = np.array([0.50, 0.28, 0.20]) * rng.uniform(0.7, 1.25) + rng.normal(0, 0.02, 3)
    else:
        pale = rng.uniform(0.3, 0.6)
        r, g, b = (c * (1 - pale) + 0.7 * pale for c in paint(rng))
    return (float(r), float(g), float(b))


def green(rng: np.random.Generator) -> Color:
    """Leaves and grass: one range for both."""
    base = np.array(GREENS[int(rng.integers(len(GREENS)))]) * rng.uniform(0.85, 1.5)
    r, g, b = base + rng.normal(0, 0.015, 3)
    return (float(max(r, 0.03)), float(max(g, 0.05)), float(max(b, 0.02)))


class Stretch:
    """A piece of one side: from `start` to `end` along, its front at `front` across."""

    def __init__(self, canvas: Canvas, start: float, end: float, front: float, side: int) -> None:
        self.canvas, self.camera = canvas, canvas.camera
        self.start, self.end, self.front, self.side = start, end, front, side

    def at(self, along: float, depth: float, y: float) -> Point:
        """A point `depth` metres behind the front."""
        return self.camera.world(along, self.front + self.side * depth, y)

    def slab(
        self,
        low: float,
        high: float,
        thick: float,
        color: Color,
        label: Label,
        front: Color | None = None,
        material: Material = Material.PLAIN,
        style: Sequence[float] = (),
    ) -> None:
        """An upright solid over the whole stretch: its front, its two ends and its top."""
        s0, s1 = self.start, self.end
        front = front or color
        face = self.canvas.face
        for s in (s1, s0):
            face([self.at(s, 0, low), self.at(s, 0, high), self.at(s, thick, high),
                  self.at(s, thick, low)], label, color, material, style=style)  # fmt: skip
        if self.camera.position[1] > high:
            face([self.at(s0, 0, high), self.at(s1, 0, high), self.at(s1, thick, high),
                  self.at(s0, thick, high)], label, scaled(color, 1.1))  # fmt: skip
        self.panel(s0, s1, low, high, 0, front, label, material, style)

    def panel(
        self,
        s0: float,
        s1: float,
        low: float,
        high: float,
        depth: float,
        color: Color | None,
        label: Label | None,
        material: Material = Material.PLAIN,
        style: Sequence[float] = (),
    ) -> None:
        """An upright rectangle along the street."""
        points = [self.at(s0, depth, low), self.at(s0, depth, high), self.at(s1, depth, high),
                  self.at(s1, depth, low)]  # fmt: skip
        self.canvas.face(points, label, color, material, style=style)

    def cast(self, thick: float, high: float, sun: Point | None) -> None:
        """The shadow of a slab of this height."""
        points = [self.at(self.start, 0, 0), self.at(self.end, 0, 0),
                  self.at(self.end, thick, 0), self.at(self.start, thick, 0)]  # fmt: skip
        self.canvas.cast(points, 0, high, sun)


def facade_style(rng: np.random.Generator, eaves: float, night: bool) -> tuple[float, ...]:
    """Draws the rhythm of a facade; the fields are those of `surfaces._facade`."""
    modern = rng.random() < 0.3
    return (
        rng.uniform(2.2, 4.2),
        rng.uniform(2.8, 3.6),
        rng.uniform(0.75, 0.92) if modern else rng.uniform(0.32, 0.6),
        rng.uniform(0.5, 0.75) if modern else rng.uniform(0.45, 0.66),
        rng.uniform(3.2, 4.4),
        rng.uniform(0.15, 0.5) if night else 0.0,
        rng.uniform(0.12, 0.42),
        eaves,
    )


def draw_building(stretch: Stretch, rng: np.random.Generator, sun: Point | None, night: bool) -> None:
    """A house front with windows, its ends, and a flat or a pitched roof."""
    canvas, side = stretch.canvas, stretch.side
    high = rng.uniform(5.5, 9) if rng.random() < 0.3 else rng.uniform(9, 22)
    color = stone(rng)
    thick = rng.uniform(9, 14)
    stretch.cast(thick, high, sun)
    style = facade_style(rng, high, night)
    pitched = high < 16 and rng.random() < 0.55
    if pitched:
        tiles = (0.36, 0.2, 0.15) if rng.random() < 0.6 else (0.22, 0.22, 0.25)
        ridge, half = high + rng.uniform(2, 4), thick / 2
        s0, s1 = stretch.start, stretch.end
        canvas.face([stretch.at(s0, 0, high), stretch.at(s0, half, ridge),
                     stretch.at(s0, thick, high)], Label.BUILDING, color)  # fmt: skip
        canvas.face([stretch.at(s0, -0.3, high - 0.1), stretch.at(s1, -0.3, high - 0.1),
                     stretch.at(s1, half, ridge), stretch.at(s0, half, ridge)],
                    Label.BUILDING, tiles, Material.BRICK)  # fmt: skip
        if rng.random() < 0.6:
            s = rng.uniform(s0 + 1, s1 - 1)
            pot = Stretch(canvas, s, s + 0.9, stretch.front + side * (half - 0.8), side)
            pot.slab(ridge - 1.5, ridge + 0.9, 0.8, color, Label.BUILDING, material=Material.BRICK)
    stretch.slab(0, high, thick, color, Label.BUILDING, None, Material.FACADE, style)
    if not pitched:
        dark = scaled(color, 0.7)
        stretch.panel(stretch.start, stretch.end, high - 0.35, high + 0.1, -0.15, dark,
                      Label.BUILDING)  # fmt: skip
    if rng.random() < 0.4:
        cloth = paint(rng)
        low = style[4] - 0.75
        s0, s1 = stretch.start + 0.8, stretch.end - 0.8
        canvas.face([stretch.at(s0, 0, low + 0.6), stretch.at(s1, 0, low + 0.6),
                     stretch.at(s1, -1.1, low), stretch.at(s0, -1.1, low)],
                    Label.BUILDING, cloth, Material.RIBS)  # fmt: skip


def draw_wall(stretch: Stretch, rng: np.random.Generator, sun: Point | None) -> None:
    """A free-standing wall of concrete, plaster or brick, 2.3 to 3.6 m high, with a coping."""
    high = rng.uniform(2.3, 3.6)
    color = stone(rng) if rng.random() < 0.6 else gray(rng)
    material = rng.choice([Material.PLASTER, Material.PANELS, Material.BRICK])
    stretch.cast(0.35, high, sun)
    stretch.slab(0, high, 0.35, color, Label.WALL, material=Material(material))
    r, g, b = scaled(color, 1.25)
    cap = (min(r, 0.9), min(g, 0.9), min(b, 0.9))
    stretch.panel(stretch.start, stretch.end, high - 0.16, high + 0.04, -0.06, cap, Label.WALL)
    step = rng.uniform(3, 5)
    if rng.random() < 0.5:
        for s in np.arange(stretch.start + 0.3, stretch.end - 0.4, step).tolist():
            pier = Stretch(stretch.canvas, s, s + 0.5, stretch.front - stretch.side * 0.1, stretch.side)
            pier.slab(0, high + 0.15, 0.1, cap, Label.WALL, material=Material(material))


def draw_fence(stretch: Stretch, rng: np.random.Generator, sun: Point | None) -> None:
    """Railings, pickets or boards; what is seen between the bars belongs to the fence too."""
    label = Label.FENCE
    kind = rng.choice(["railing", "picket", "rails"], p=[0.45, 0.3, 0.25])
    high = rng.uniform(1.9, 2.6) if kind == "railing" else rng.uniform(1.7, 2.2)
    color = paint(rng) if rng.random() < 0.5 else (0.45, 0.34, 0.24)
    s0, s1 = stretch.start, stretch.end
    stretch.panel(s0, s1, 0.0, high, 0, None, label)
    gap, wide = {"railing": (0.4, 0.18), "picket": (0.3, 0.2), "rails": (9.0, 0.14)}[kind]
    s = s0
    while s < s1:
        stretch.panel(s, s + wide, 0.03, high, 0, color, None)
        # Bars that no pixel could tell apart are not worth drawing one by one.
        s += gap * max(1, round(s / 28))
    bars = (0.15, high - 0.12) if kind != "rails" else np.arange(0.2, high, 0.28).tolist()
    for y in bars:
        stretch.panel(s0, s1, y, y + 0.14, 0, color, None)
    for s in [*np.arange(s0, s1, 2.6).tolist(), s1 - 0.16]:
        stretch.panel(s, s + 0.16, 0, high + 0.12, 0, color, label)
    if sun is not None:
        stretch.cast(0.05, 0.3, None)
        for y in (0.15, high - 0.1):
            line = [stretch.at(s, 0, 0) for s in (s0, s1)]
            stretch.canvas.cast([*line, stretch.at(s1, 0.05, 0)], y, y + 0.1, sun)


def draw_hedge(stretch: Stretch, rng: np.random.Generator, sun: Point | None) -> None:
    """A clipped hedge: a wall's shape in leaves."""
    high = rng.uniform(0.9, 2.4)
    color = green(rng)
    stretch.cast(1.0, high, sun)
    stretch.slab(0, high, 1.0, color, Label.VEGETATION, material=Material.LEAVES)
