"""People, bicycles and motorcycles: jointed cut-outs that turn with their heading.

A joint is (x right, y up, z ahead) in the figure's axes; on the cut-out its place to the right of the
middle is x · cos(heading) + z · sin(heading).
"""

import math
from collections.abc import Sequence

import numpy as np

from dpanet_jax.streets.camera import Frame
from dpanet_jax.streets.canvas import Canvas, Color, Label, scaled
from dpanet_jax.streets.vehicles import CIRCLE, PAINTS, RUBBER, paint

Joint = tuple[float, float, float]
SKINS = [(0.78, 0.58, 0.46), (0.62, 0.43, 0.32), (0.42, 0.28, 0.2), (0.28, 0.18, 0.13)]
STEEL = (0.45, 0.46, 0.48)


class Figure:
    """Draws limbs and discs of one figure."""

    def __init__(self, canvas: Canvas, frame: Frame, heading: float, scale: float = 1.0) -> None:
        self.canvas, self.frame, self.scale = canvas, frame, scale
        self.cos, self.sin = math.cos(heading), math.sin(heading)

    def _flat(self, joint: Joint) -> tuple[float, float]:
        x, y, z = joint
        return ((x * self.cos + z * self.sin) * self.scale, y * self.scale)

    def limb(
        self, a: Joint, b: Joint, wide: float, color: Color, label: Label, thin: float | None = None
    ) -> None:
        """A bar from a to b, `wide` at a and `thin` (default: the same) at b."""
        (x0, y0), (x1, y1) = self._flat(a), self._flat(b)
        dx, dy = x1 - x0, y1 - y0
        run = math.hypot(dx, dy)
        if run < 1e-4:
            return
        ux, uy = -dy / run * self.scale / 2, dx / run * self.scale / 2
        thin = wide if thin is None else thin
        points = [(x0 + ux * wide, y0 + uy * wide), (x1 + ux * thin, y1 + uy * thin),
                  (x1 - ux * thin, y1 - uy * thin), (x0 - ux * wide, y0 - uy * wide)]  # fmt: skip
        self.canvas.cut_out(self.frame, points, label, color)

    def shape(self, joints: Sequence[Joint], color: Color, label: Label, glow: float = 0.0) -> None:
        """A polygon of joints."""
        points = [self._flat(j) for j in joints]
        self.canvas.cut_out(self.frame, points, label, color, glow=glow)

    def disc(
        self, at: Joint, wide: float, high: float, color: Color | None, label: Label, glow: float = 0.0
    ) -> None:
        """An ellipse; color None marks the class only."""
        x, y = self._flat(at)
        s = self.scale
        points = [(x + wide * s * cx, y + high * s * cy) for cx, cy in CIRCLE]
        self.canvas.cut_out(self.frame, points, label, color, glow=glow)

    def head(self, at: Joint, label: Label, rng: np.random.Generator, helmet: Color | None) -> None:
        """A head with hair or a helmet."""
        skin = SKINS[int(rng.integers(len(SKINS)))]
        x, y, z = at
        self.disc(at, 0.1, 0.13, skin, label)
        top = helmet or SKINS[3]
        r = 0.135 if helmet else 0.11
        turn = 0.03 * (1 if self.cos < 0 else -1)
        cap = [(x + r * cx, y + 0.035 + r * cy, z + turn) for cx, cy in CIRCLE if cy > -0.3]
        self.shape(cap, top, label)


def draw_person(canvas: Canvas, frame: Frame, heading: float, rng: np.random.Generator) -> None:
    """Someone who walks or stands, 1.5 to 1.95 m tall."""
    figure = Figure(canvas, frame, heading, rng.uniform(0.88, 1.12))
    label = Label.PERSON
    coat, legs = paint(rng), scaled(paint(rng), 0.6)
    stride = rng.uniform(0.0, 0.3) * rng.choice([-1, 1])
    lift = 0.04 + abs(stride) * 0.2
    for side, foot in ((-0.1, stride), (0.1, -stride)):
        knee = (side, 0.48, foot * 0.6 + 0.04)
        ankle = (side, lift * (foot < 0), foot)
        figure.limb((side * 0.8, 0.95, 0), knee, 0.2, legs, label, 0.16)
        figure.limb(knee, ankle, 0.16, legs, label, 0.12)
        x, y, z = ankle
        figure.limb((x, y + 0.04, z - 0.06), (x, y + 0.04, z + 0.2), 0.09, RUBBER, label)
    far, near = (-0.24, 0.24) if figure.sin > 0 else (0.24, -0.24)
    arm = scaled(coat, 0.8)
    figure.limb((far, 1.4, 0), (far * 1.15, 0.85, -stride * 0.9), 0.12, arm, label, 0.09)
    hem = rng.choice([0.85, 0.85, 0.55])
    wide = 0.2 if hem > 0.8 else 0.27
    across, deep = 0.23, 0.13
    span = abs(across * figure.cos) + abs(deep * figure.sin)
    foot = span * wide / 0.2
    flip = 1 / max(figure.cos, 1e-3) if figure.cos >= 0 else 1 / min(figure.cos, -1e-3)
    torso = [(-foot * 0.9, hem), (-span, 1.35), (-span * 0.55, 1.47), (span * 0.55, 1.47),
             (span, 1.35), (foot * 0.9, hem)]  # fmt: skip
    if abs(figure.cos) > 0.05:
        figure.shape([(x * flip, y, 0) for x, y in torso], coat, label)
    else:
        figure.shape([(0, y, x / figure.sin) for x, y in torso], coat, label)
    figure.limb((near, 1.4, 0), (near * 1.15, 0.85, stride * 0.9), 0.12, arm, label, 0.09)
    if rng.random() < 0.3:
        bag = paint(rng)
        z = near * 1.1
        figure.shape([(z - 0.1, 0.5, 0), (z - 0.1, 0.85, 0), (z + 0.12, 0.85, 0),
                      (z + 0.12, 0.5, 0)], bag, label)  # fmt: skip
    figure.head((0, 1.62, 0.02), label, rng, None)


def draw_bicycle(
    canvas: Canvas, frame: Frame, heading: float, rng: np.random.Generator, ridden: bool
) -> None:
    """A bicycle, a little larger than life; with its rider when ridden."""
    figure = Figure(canvas, frame, heading, rng.uniform(1.1, 1.2))
    label, color = Label.BICYCLE, paint(rng)
    broad = abs(figure.sin)
    for z in (-0.52, 0.52):
        hub = (0, 0.35, z)
        figure.disc(hub, 0.36 * broad + 0.07, 0.36, None, label)
        ring = [(x * 0.33, 0.35 + y * 0.33, z) for x, y in CIRCLE]
        if broad < 0.25:
            figure.disc(hub, 0.05, 0.36, RUBBER, label)
            continue
        for (x0, y0, _), (x1, y1, _) in zip(ring, ring[1:] + ring[:1], strict=True):
            figure.limb((0, y0, z + x0), (0, y1, z + x1), 0.075, RUBBER, label)
        figure.limb((0, 0.35, z - 0.3), (0, 0.35, z + 0.3), 0.02, STEEL, label)
        figure.limb((0, 0.05, z), (0, 0.65, z), 0.02, STEEL, label)
    saddle, bars, crank = (0, 0.9, -0.2), (0, 0.98, 0.36), (0, 0.33, 0.0)
    for a, b in (
        (saddle, crank), (crank, (0, 0.8, 0.38)), ((0, 0.78, -0.16), (0, 0.8, 0.38)),
        ((0, 0.35, -0.52), crank), ((0, 0.35, -0.52), (0, 0.75, -0.17)), ((0, 0.35, 0.52), bars),
    ):  # fmt: skip
        figure.limb(a, b, 0.07, color, label)
    figure.limb((-0.27, 1.0, 0.34), (0.27, 1.0, 0.34), 0.06, RUBBER, label)
    figure.limb((0, 0.92, -0.34), (0, 0.92, -0.06), 0.08, RUBBER, label)
    if ridden:
        helmet = paint(rng) if rng.random() < 0.6 else None
        _draw_rider(figure, rng, hip=0.98, hands=(0.24, 1.04, 0.36), feet=0.25, helmet=helmet)


def draw_motorcycle(
    canvas: Canvas,
    frame: Frame,
    heading: float,
    rng: np.random.Generator,
    ridden: bool,
    night: bool,
) -> None:
    """A motorcycle, a little larger than life; with its rider when ridden."""
    figure = Figure(canvas, frame, heading, rng.uniform(1.1, 1.2))
    label = Label.MOTORCYCLE
    color = PAINTS[int(rng.integers(3, len(PAINTS)))]
    broad = abs(figure.sin)
    for z in (-0.66, 0.7):
        figure.disc((0, 0.33, z), 0.33 * broad + 0.1, 0.33, RUBBER, label)
        if broad > 0.3:
            figure.disc((0, 0.33, z), 0.18 * broad, 0.18, STEEL, label)
    figure.shape([(0.0, 0.28, -0.4), (0.0, 0.62, -0.4), (0.0, 0.62, 0.35), (0.0, 0.28, 0.3)],
                 (0.16, 0.16, 0.17), label)  # fmt: skip
    figure.limb((0.16, 0.34, -0.8), (0.12, 0.3, 0.1), 0.11, STEEL, label)
    for x in (-0.17, 0.17):
        figure.shape([(x, 0.6, -0.25), (x, 0.62, -0.95), (0, 0.84, -1.0), (0, 0.82, -0.2)], color,
                     label)  # fmt: skip
        figure.shape([(x, 0.58, -0.2), (x, 0.9, 0.0), (0, 1.02, 0.35), (x, 0.85, 0.55),
                      (x, 0.6, 0.4)], color, label)  # fmt: skip
    figure.shape([(-0.2, 0.3, 0.1), (-0.22, 0.9, 0.1), (0.22, 0.9, 0.1), (0.2, 0.3, 0.1)],
                 scaled(color, 0.7), label)  # fmt: skip
    figure.limb((0, 0.33, 0.7), (0, 1.0, 0.42), 0.1, STEEL, label)
    figure.limb((0, 0.86, -0.75), (0, 0.82, -0.05), 0.13, RUBBER, label)
    figure.limb((-0.36, 1.08, 0.38), (0.36, 1.08, 0.38), 0.07, RUBBER, label)
    coming = figure.cos < -0.2
    lamp = (0.9, 0.9, 0.8) if coming else (0.6, 0.05, 0.05)
    shine = (1.2 if coming else 0.5) if night else 0.15
    if abs(figure.cos) > 0.4:
        figure.disc((0, 0.85, 0.5 if coming else -0.9), 0.12, 0.11, lamp, label, shine)
    if ridden:
        _draw_rider(figure, rng, hip=0.92, hands=(0.3, 1.1, 0.38), feet=0.35, helmet=paint(rng))


def _draw_rider(
    figure: Figure, rng: np.random.Generator, hip: float, hands: Joint, feet: float, helmet: Color | None
) -> None:
    label = Label.RIDER
    coat, legs = paint(rng), scaled(paint(rng), 0.6)
    lean = rng.uniform(0.12, 0.3)
    x, y, z = hands
    neck = (0, hip + 0.52, -0.2 + lean)
    for side, pedal in ((-0.12, 0.12), (0.12, -0.12)):
        knee = (side * 1.5, hip - 0.25 + pedal, 0.2)
        foot = (side * 1.2, feet + pedal, 0.02)
        figure.limb((side, hip, -0.2), knee, 0.2, legs, label, 0.16)
        figure.limb(knee, foot, 0.16, legs, label, 0.12)
        figure.limb(foot, (foot[0], foot[1], foot[2] + 0.2), 0.09, RUBBER, label)
    shoulder, waist = 0.23, 0.19
    figure.shape([(-waist, hip - 0.05, -0.26), (-shoulder, neck[1] - 0.08, neck[2]),
                  (shoulder, neck[1] - 0.08, neck[2]), (waist, hip - 0.05, -0.26)],
                 coat, label)  # fmt: skip
    figure.limb((0, hip - 0.05, -0.24), neck, 0.3, coat, label, 0.32)
    arm = scaled(coat, 0.8)
    for side in (-1, 1):
        top = (side * shoulder, neck[1] - 0.06, neck[2])
        elbow = (side * 0.3, (neck[1] + y) / 2 - 0.08, (neck[2] + z) / 2)
        figure.limb(top, elbow, 0.13, arm, label, 0.11)
        figure.limb(elbow, (side * x, y, z), 0.11, arm, label, 0.09)
    figure.head((0, neck[1] + 0.17, neck[2] + 0.06), label, rng, helmet)
