"""The plan of a street, and the ground that it lies on, drawn pixel by pixel from the plan."""

import dataclasses

import numpy as np

from dpanet_jax.streets.camera import Camera
from dpanet_jax.streets.canvas import Label
from dpanet_jax.streets.surfaces import noise

FAR = 400.0


@dataclasses.dataclass
class Band:
    """A strip of ground beside the road. Widths in metres; joints: it is laid of slabs."""

    label: Label
    width: float
    color: tuple[float, float, float]
    joints: bool = False


@dataclasses.dataclass
class Street:
    """A road with bands on its two sides, all in road coordinates (see `camera`).

    left, right: edges of the road, across. bands: left and right, from the road outwards.
    crossing: (start, end, opens left, opens right) along, of a side street, or None.
    marks: (across, half width, dashed). rails: middle of each track, across.
    patches: (along, across, length, width, tone).
    """

    left: float
    right: float
    road: Band
    bands: tuple[list[Band], list[Band]]
    crossing: tuple[float, float, bool, bool] | None
    marks: list[tuple[float, float, bool]]
    mark_color: tuple[float, float, float]
    rails: list[float]
    patches: list[tuple[float, float, float, float, float]]
    zebra: float | None = None

    def edge(self, side: int) -> float:
        """Where the bands end and lots begin, across; side -1 is left, 1 is right."""
        total = sum(band.width for band in self.bands[side > 0][:-1])
        return self.left - total if side < 0 else self.right + total

    def open_at(self, along: float, length: float, side: int) -> bool:
        """Whether a stretch of a side is free of the side street's mouth."""
        if self.crossing is None or not self.crossing[2 if side < 0 else 3]:
            return True
        start, end = self.crossing[0] - 2.2, self.crossing[1] + 2.2
        return along >= end or along + length <= start


def draw_ground(
    street: Street, camera: Camera, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws the ground alone.

    Returns labels (H, W) uint8 (sky where there is no ground), the flat indices of the G ground
    pixels, their albedo (G, 3) and their depth (G,), float32.
    """
    labels = np.full(rays.shape[:2], Label.SKY, np.uint8)
    down = -rays[..., 1].reshape(-1)
    at = np.flatnonzero(down > camera.position[1] / FAR)
    depth = np.float32(camera.position[1]) / down[at]
    flat = rays.reshape(-1, 3)
    s = camera.position[2] + flat[at, 2] * depth
    x = camera.position[0] + flat[at, 0] * depth
    d = x - np.float32(camera.bend / 2) * s * s

    edges, bands = _across(street)
    which = np.searchsorted(np.asarray(edges, np.float32), d)
    which = _with_side_street(street, bands, which, s, d)
    color = np.asarray([band.color for band in bands], np.float32)[which]
    kinds = np.asarray([band.label for band in bands], np.uint8)[which]
    labels.reshape(-1)[at] = kinds

    near = 1 / (1 + depth * np.float32(0.05))
    tone = 1 + 0.16 * near * noise(d, s, 60) + 0.16 * noise(d, s * 0.5, 6)
    slabs = np.asarray([band.joints for band in bands])[which]
    gap = ((d * 1.1 - np.floor(d * 1.1)) < 0.07) | ((s * 0.9 - np.floor(s * 0.9)) < 0.07)
    tone -= 0.28 * near * (gap & slabs)
    grass = kinds == Label.TERRAIN
    tone += grass * (0.55 * near * noise(d, s, 33) + 0.2 * noise(d, s, 11))
    tone = _curbs(street, edges, tone, s, d)

    on_road = which == bands.index(street.road)
    for along, across, length, width, change in street.patches:
        inside = on_road & (np.abs(s - along) < length) & (np.abs(d - across) < width)
        tone[inside] *= change
    color *= np.maximum(tone, 0.2)[:, None]
    _paint_marks(street, color, on_road, s, d)
    return labels, at, color, depth


def _across(street: Street) -> tuple[list[float], list[Band]]:
    edges, bands = [street.left, street.right], [street.road]
    for band in street.bands[0][:-1]:
        edges.insert(0, edges[0] - band.width)
    for band in street.bands[1][:-1]:
        edges.append(edges[-1] + band.width)
    bands = street.bands[0][::-1] + bands + street.bands[1]
    return edges, bands


def _with_side_street(
    street: Street, bands: list[Band], which: np.ndarray, s: np.ndarray, d: np.ndarray
) -> np.ndarray:
    if street.crossing is None:
        return which
    start, end, left, right = street.crossing
    road = bands.index(street.road)
    opens = (d < street.left) & left | (d > street.right) & right
    mouth = opens & (s > start) & (s < end)
    beside = opens & ~mouth & (s > start - 2.2) & (s < end + 2.2)
    lots = (which == 0) | (which == len(bands) - 1)
    walks = [i for i, band in enumerate(bands) if band.label == Label.SIDEWALK]
    which = np.where(mouth, road, which)
    return np.where(beside & lots & (len(walks) > 0), walks[0] if walks else road, which)


def _curbs(street: Street, edges: list[float], tone: np.ndarray, s: np.ndarray, d: np.ndarray) -> np.ndarray:
    for edge, out in ((street.left, -1), (street.right, 1)):
        across = (d - edge) * out
        free = np.ones(len(s), bool)
        if street.crossing is not None and street.crossing[2 if out < 0 else 3]:
            free = (s < street.crossing[0]) | (s > street.crossing[1])
        tone = np.where(free & (across > 0) & (across < 0.22), tone * 1.25, tone)
        tone = np.where(free & (across <= 0) & (across > -0.12), tone * 0.62, tone)
    return tone


def _paint_marks(
    street: Street, color: np.ndarray, on_road: np.ndarray, s: np.ndarray, d: np.ndarray
) -> None:
    free = on_road & (d > street.left) & (d < street.right)
    if street.crossing is not None:
        free &= (s < street.crossing[0] - 1) | (s > street.crossing[1] + 1)
    paint = np.zeros(len(s), bool)
    for across, half, dashed in street.marks:
        line = np.abs(d - across) < half
        if dashed:
            line &= (s / 7 - np.floor(s / 7)) < 0.5
        paint |= line
    if street.zebra is not None:
        inside = (s > street.zebra) & (s < street.zebra + 3)
        paint = np.where(inside, (d - np.floor(d)) < 0.5, paint)
    worn = noise(d, s, 50) < 0.45
    color[paint & free & worn] = street.mark_color
    for track in street.rails:
        rail = np.abs(np.abs(d - track) - 0.72) < 0.075
        color[rail & on_road] = (0.13, 0.13, 0.14)
