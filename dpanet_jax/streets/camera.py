"""A pinhole camera above the ground, and the frame of an object that stands on it.

World axes, in metres: X right, Y up, Z ahead. The ground is Y = 0. A road that turns is sheared: its
centre line is X = bend · Z² / 2, so `along` (s) is Z and `across` (d) is the distance from that line.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

Point = tuple[float, float, float]

NEAR = 0.4


@dataclasses.dataclass
class Camera:
    """Where the camera stands and looks. Angles in radians, `focal` in pixels of the canvas.

    bend: the road's curvature in 1/m; it belongs here because every position is seen through it.
    """

    height: int
    width: int
    focal: float
    horizon: float
    position: Point
    yaw: float
    pitch: float
    roll: float
    bend: float

    def __post_init__(self) -> None:
        sy, cy = math.sin(self.yaw), math.cos(self.yaw)
        sp, cp = math.sin(self.pitch), math.cos(self.pitch)
        sr, cr = math.sin(self.roll), math.cos(self.roll)
        ahead = (sy * cp, sp, cy * cp)
        right = (cy, 0.0, -sy)
        up = (-sy * sp, cp, -cy * sp)
        self.right: Point = (
            cr * right[0] + sr * up[0], cr * right[1] + sr * up[1], cr * right[2] + sr * up[2]
        )  # fmt: skip
        self.down: Point = (
            sr * right[0] - cr * up[0], sr * right[1] - cr * up[1], sr * right[2] - cr * up[2]
        )  # fmt: skip
        self.ahead: Point = ahead
        self.center = (self.width / 2, self.horizon * self.height)

    def world(self, along: float, across: float, y: float = 0.0) -> Point:
        """Road coordinates → world point."""
        return (across + self.bend * along * along / 2, y, along)

    def to_view(self, point: Point) -> Point:
        """World point → (right, down, ahead) from the camera, metres."""
        px, py, pz = self.position
        x, y, z = point[0] - px, point[1] - py, point[2] - pz
        r, d, a = self.right, self.down, self.ahead
        return (
            x * r[0] + y * r[1] + z * r[2],
            x * d[0] + y * d[1] + z * d[2],
            x * a[0] + y * a[1] + z * a[2],
        )

    def project(self, points: Iterable[Point]) -> list[tuple[float, float]]:
        """World polygon → pixel polygon, clipped at the near plane; empty when all is behind it."""
        view = [self.to_view(p) for p in points]
        if any(p[2] < NEAR for p in view):
            view = _clip(view)
        f, (cx, cy) = self.focal, self.center
        return [(cx + f * x / z, cy + f * y / z) for x, y, z in view]

    def rays(self) -> np.ndarray:
        """World direction of each pixel, (height, width, 3) float32, with unit depth ahead."""
        x = (np.arange(self.width, dtype=np.float32) + 0.5 - self.center[0]) / self.focal
        y = (np.arange(self.height, dtype=np.float32) + 0.5 - self.center[1]) / self.focal
        right, down, ahead = (np.asarray(v, np.float32) for v in (self.right, self.down, self.ahead))
        return (x[None, :, None] * right + y[:, None, None] * down + ahead).astype(np.float32)


def _clip(view: list[Point]) -> list[Point]:
    kept: list[Point] = []
    for a, b in zip(view, view[1:] + view[:1], strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] < NEAR) != (b[2] < NEAR):
            t = (NEAR - a[2]) / (b[2] - a[2])
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR))
    return kept


class Frame:
    """An object's own axes: x right, y up, z to its front, with the origin on the ground."""

    def __init__(self, camera: Camera, along: float, across: float, heading: float = 0.0):
        """heading: 0 goes with the road, π comes towards the camera, π/2 goes to the right."""
        self.camera = camera
        self.origin = camera.world(along, across)
        angle = heading + math.atan(camera.bend * along)
        self.cos, self.sin = math.cos(angle), math.sin(angle)

    def place(self, points: Iterable[Point]) -> list[Point]:
        """Points in the object's axes → world points."""
        ox, oy, oz = self.origin
        c, s = self.cos, self.sin
        return [(ox + x * c + z * s, oy + y, oz - x * s + z * c) for x, y, z in points]

    def flat(self, points: Iterable[tuple[float, float]]) -> list[Point]:
        """Points (right, up) of a cut-out that faces the camera → world points."""
        ox, oy, oz = self.origin
        rx, _, rz = self.camera.right
        return [(ox + x * rx, oy + y, oz + x * rz) for x, y in points]
