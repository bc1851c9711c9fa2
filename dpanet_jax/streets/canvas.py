"""Polygons in the world → which face and which class each pixel shows.

Colour comes later, per pixel, from the table of faces (deferred shading): a face keeps its plane, so
textures lie on it in true perspective.
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dpanet_jax.streets.camera import Camera, Frame, Point

Color = tuple[float, float, float]


class Material(enum.IntEnum):
    """How a face's colour varies over it."""

    PLAIN = 0
    PLASTER = 1
    BRICK = 2
    PANELS = 3
    LEAVES = 4
    RIBS = 5
    FACADE = 6
    GLASS = 7


class Label(enum.IntEnum):
    """Cityscapes train ids."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18


@dataclasses.dataclass
class Faces:
    """The table of faces; row 0 stands for ground and sky, which have no face.

    color: (F, 3) albedo 0..1. normal: (F, 3). offset: (F,), the plane is normal · P = offset.
    tangent: (F, 3), unit and horizontal; start: (F,), where the texture begins along it.
    material: (F,). glow: (F,) light the face gives off. style: (F, 8), see `surfaces.facade`.
    """

    color: np.ndarray
    normal: np.ndarray
    offset: np.ndarray
    tangent: np.ndarray
    start: np.ndarray
    material: np.ndarray
    glow: np.ndarray
    style: np.ndarray


class Canvas:
    """What the painter draws on. Later faces cover earlier ones."""

    def __init__(self, camera: Camera, labels: np.ndarray) -> None:
        """labels: (height, width) uint8, the classes of ground and sky."""
        size = (camera.width, camera.height)
        self.camera = camera
        self.labels = Image.fromarray(labels)
        self.faces = Image.new("I", size, 0)
        self.shadow = Image.new("L", size, 0)
        self.contact = Image.new("L", size, 0)
        self._draw_label = ImageDraw.Draw(self.labels)
        self._draw_face = ImageDraw.Draw(self.faces)
        self._draw_shadow = ImageDraw.Draw(self.shadow)
        self._draw_contact = ImageDraw.Draw(self.contact)
        self._rows: list[tuple] = [((0, 0, 0), (0, 1, 0), 0, (1, 0, 0), 0, 0, 0, ())]

    def face(
        self,
        points: Sequence[Point],
        label: int | None,
        color: Color | None,
        material: Material = Material.PLAIN,
        glow: float = 0.0,
        style: Sequence[float] = (),
        cull: bool = False,
    ) -> bool:
        """Draws a flat polygon; returns whether it faces the camera and is ahead of it.

        color None draws the class only (what is seen through, such as between the bars of a
        fence); label None draws the colour only. cull: skip it when seen from behind (points run
        clockwise as seen from outside).
        """
        a, b, c = points[0], points[1], points[2]
        ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = (nx * nx + ny * ny + nz * nz) ** 0.5
        if length < 1e-9:
            return False
        nx, ny, nz = nx / length, ny / length, nz / length
        px, py, pz = self.camera.position
        side = nx * (px - a[0]) + ny * (py - a[1]) + nz * (pz - a[2])
        if side <= 0:
            if cull:
                return False
            nx, ny, nz = -nx, -ny, -nz
        pixels = self.camera.project(points)
        if len(pixels) < 3:
            return False
        if label is not None:
            self._draw_label.polygon(pixels, fill=int(label))
        if color is not None:
            run = (nx * nx + nz * nz) ** 0.5
            tangent = (nz / run, 0.0, -nx / run) if run > 1e-6 else (1.0, 0.0, 0.0)
            start = a[0] * tangent[0] + a[2] * tangent[2]
            self._draw_face.polygon(pixels, fill=len(self._rows))
            offset = nx * a[0] + ny * a[1] + nz * a[2]
            self._rows.append((color, (nx, ny, nz), offset, tangent, start, int(material), glow, style))
        return True

    def cut_out(
        self,
        frame: Frame,
        points: Sequence[tuple[float, float]],
        label: int | None,
        color: Color | None,
        material: Material = Material.PLAIN,
        glow: float = 0.0,
    ) -> None:
        """Draws a polygon (right, up) that stands at the frame's origin and faces the camera."""
        self.face(frame.flat(points), label, color, material, glow)

    def cast(self, footprint: Sequence[Point], bottom: float, top: float, sun: Point | None) -> None:
        """Darkens the ground under an upright prism, and along its shadow where there is a sun.

        bottom, top: its extent above the ground, metres. sun: unit vector towards the sun.
        """
        if bottom < 0.6:
            grown = _grow(footprint, 0.12)
            self._polygon(self._draw_contact, grown)
        if sun is None:
            return
        low, high = (_thrown(footprint, sun, h) for h in (bottom, top))
        self._polygon(self._draw_shadow, low)
        self._polygon(self._draw_shadow, high)
        for i in range(len(low)):
            j = (i + 1) % len(low)
            self._polygon(self._draw_shadow, [low[i], low[j], high[j], high[i]])

    def _polygon(self, draw: ImageDraw.ImageDraw, points: Sequence[Point]) -> None:
        pixels = self.camera.project(points)
        if len(pixels) >= 3:
            draw.polygon(pixels, fill=255)

    def table(self) -> Faces:
        """All faces drawn so far, as arrays."""
        color, normal, offset, tangent, start, material, glow, style = zip(*self._rows, strict=True)
        styles = np.zeros((len(style), 8), np.float32)
        for i, values in enumerate(style):
            styles[i, : len(values)] = values
        return Faces(
            color=np.array(color, np.float32),
            normal=np.array(normal, np.float32),
            offset=np.array(offset, np.float32),
            tangent=np.array(tangent, np.float32),
            start=np.array(start, np.float32),
            material=np.array(material, np.uint8),
            glow=np.array(glow, np.float32),
            style=styles,
        )


def scaled(color: Color, by: float) -> Color:
    """A darker or lighter tone of a colour."""
    red, green, blue = color
    return (by * red, by * green, by * blue)


def _thrown(footprint: Sequence[Point], sun: Point, height: float) -> list[Point]:
    # A shadow longer than this leaves the street anyway, and a low sun would send it to infinity.
    reach = min(height / max(sun[1], 0.15), 25.0)
    return [(x - sun[0] * reach, 0.0, z - sun[2] * reach) for x, _, z in footprint]


def _grow(footprint: Sequence[Point], by: float) -> list[Point]:
    n = len(footprint)
    mx, mz = sum(p[0] for p in footprint) / n, sum(p[2] for p in footprint) / n
    grown = []
    for x, _, z in footprint:
        dx, dz = x - mx, z - mz
        r = max((dx * dx + dz * dz) ** 0.5, 1e-6)
        grown.append((x + dx / r * by, 0.0, z + dz / r * by))
    return grown
