"""Draws a street's plan from a seed: the road, its bands, and where everything stands."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from dpanet_jax.streets.blocks import gray, green
from dpanet_jax.streets.camera import Camera
from dpanet_jax.streets.canvas import Label
from dpanet_jax.streets.street import Band, Street


@dataclasses.dataclass
class Item:
    """Something that stands on the ground, in its box of road coordinates; `draw` puts it there."""

    along: tuple[float, float]
    across: tuple[float, float]
    draw: Callable[[], object]


def choose_camera(rng: np.random.Generator, height: int, width: int, lane: float) -> Camera:
    """A camera in the right lane of a road whose lanes are `lane` metres wide."""
    bend = 0.0 if rng.random() < 0.45 else float(np.clip(rng.normal(0, 0.0022), -0.004, 0.004))
    return Camera(
        height=height,
        width=width,
        focal=rng.uniform(0.85, 1.1) * max(width, 2 * height),
        horizon=rng.uniform(0.42, 0.56),
        position=(lane * rng.uniform(0.3, 0.65), rng.uniform(1.35, 2.4), 0.0),
        yaw=rng.normal(0, 0.05) + bend * 8,
        pitch=rng.normal(0, 0.015),
        roll=rng.normal(0, 0.01),
        bend=bend,
    )


def choose_street(rng: np.random.Generator, lane: float, parking: list[bool], rails: list[float]) -> Street:
    """A street whose road runs in lanes of `lane` metres on both sides of its middle."""
    wide = [rng.uniform(2.1, 2.4) if p else rng.uniform(0.2, 0.8) for p in parking]
    left, right = -lane - wide[0], lane + wide[1]
    pavement = gray(rng)
    # Often the very same asphalt: then only the curb and the layout tell road from sidewalk.
    walk = pavement if rng.random() < 0.2 else gray(rng)
    grass = green(rng) if rng.random() < 0.8 else (0.42, 0.35, 0.24)
    joints = bool(rng.random() < 0.5)
    crossing = None
    if rng.random() < 0.5:
        start = rng.uniform(11, 30)
        opens = [(True, True), (True, False), (False, True)][int(rng.integers(3))]
        crossing = (start, start + rng.uniform(6, 9), *opens)
    bands = []
    for _ in range(2):
        side = []
        if rng.random() < 0.35:
            side.append(Band(Label.TERRAIN, rng.uniform(1.4, 2.8), grass))
        if rng.random() < 0.95:
            side.append(Band(Label.SIDEWALK, rng.uniform(2.0, 4.5), walk, joints))
        if rng.random() < 0.35 or not side:
            side.append(Band(Label.TERRAIN, rng.uniform(1.4, 3.8), grass))
        lot = Label.TERRAIN if rng.random() < 0.75 else Label.SIDEWALK
        side.append(Band(lot, 0, grass if lot == Label.TERRAIN else walk, joints))
        bands.append(side)
    marks = [(0.0, 0.09, bool(rng.random() < 0.6))] if rng.random() < 0.75 else []
    if rng.random() < 0.5:
        marks += [(-lane, 0.08, any(parking)), (lane, 0.08, any(parking))]
    patches = [
        (rng.uniform(3, 40), rng.uniform(left, right), rng.uniform(0.4, 5), rng.uniform(0.3, 1.4),
         rng.choice([0.78, 0.86, 1.14, 1.22]))
        for _ in range(int(rng.integers(0, 7)))
    ]  # fmt: skip
    zebra = None
    if rng.random() < 0.4:
        zebra = crossing[0] - 4.5 if crossing else rng.uniform(7, 25)
    yellow = rng.random() < 0.1
    return Street(
        left=left,
        right=right,
        road=Band(Label.ROAD, right - left, pavement, bool(rng.random() < 0.12)),
        bands=(bands[0], bands[1]),
        crossing=crossing,
        marks=marks,
        mark_color=(0.75, 0.6, 0.2) if yellow else (0.78, 0.78, 0.76),
        rails=rails,
        patches=patches,
        zebra=zebra,
    )


def walk_middle(street: Street, side: int) -> tuple[float, float]:
    """Middle and width, across, of the sidewalk on a side; the outermost band where it has none."""
    at = street.right if side > 0 else -street.left
    for band in street.bands[side > 0][:-1]:
        middle, width = at + band.width / 2, band.width
        if band.label == Label.SIDEWALK:
            break
        at += band.width
    return side * middle, width


def far_to_near(items: list[Item], eye: float) -> list[Item]:
    """Orders boxes so that each comes before those that can hide it. eye: the camera, across."""
    along = np.array([item.along for item in items])
    across = np.array([item.across for item in items])
    gap = np.where(across[:, 0] > eye, across[:, 0] - eye, eye - across[:, 1])
    side = np.sign(across.mean(1) - eye)
    ahead = along[:, None, 1] <= along[None, :, 0] + 1e-6
    beside = (side[:, None] == side[None, :]) & (
        np.where(side > 0, across[:, 1], -across[:, 0])[:, None]
        <= np.where(side > 0, across[:, 0], -across[:, 1])[None, :] + 1e-6
    )
    # hides[i, j]: i can hide j, so j is drawn first.
    hides = ahead | (beside & ~ahead.T)
    np.fill_diagonal(hides, False)
    waiting = hides.sum(1).astype(float)
    reach = np.hypot(along.mean(1), gap)
    ordered = []
    for _ in items:
        ready = waiting <= 0.5
        # Overlapping boxes can wait for each other; then the farthest goes first.
        pool = np.where(ready, reach, -math.inf)
        if not ready.any():
            pool = np.where(np.isfinite(waiting), reach, -math.inf)
        pick = int(pool.argmax())
        ordered.append(items[pick])
        waiting -= hides[:, pick]
        waiting[pick] = math.inf
    return ordered
