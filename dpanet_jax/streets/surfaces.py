"""What faces look like close up: noise, masonry, leaves, rows of windows. All arrays are float32."""

import functools

import numpy as np

from dpanet_jax.streets.canvas import Faces, Material

_NOISE_SIZE = 512


@functools.cache
def noise_table() -> np.ndarray:
    """(512, 512) noise that tiles, about -1..1, with detail at every scale. The same everywhere."""
    rng = np.random.default_rng(20260)
    total = np.zeros((_NOISE_SIZE, _NOISE_SIZE), np.float32)
    cells, weight = 8, 1.0
    while cells <= _NOISE_SIZE:
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        at = np.arange(_NOISE_SIZE) * (cells / _NOISE_SIZE)
        low = at.astype(np.int64)
        high = (low + 1) % cells
        part = (at - low).astype(np.float32)
        rows = grid[low] * (1 - part)[:, None] + grid[high] * part[:, None]
        total += weight * (rows[:, low] * (1 - part) + rows[:, high] * part)
        cells, weight = cells * 2, weight * 0.72
    return total / np.abs(total).max()


def noise(u: np.ndarray, v: np.ndarray, cells: float) -> np.ndarray:
    """Noise at (u, v), `cells` table entries a unit; the table spans 512 entries."""
    table = noise_table()
    mask = _NOISE_SIZE - 1
    iu = (u * np.float32(cells)).astype(np.int32) & mask
    iv = (v * np.float32(cells)).astype(np.int32) & mask
    return table[iv, iu]


def scramble(*keys: np.ndarray) -> np.ndarray:
    """Whole numbers → evenly spread values in 0..1, the same for the same numbers."""
    mixed = np.zeros(np.broadcast(*keys).shape, np.uint32)
    for key in keys:
        mixed = (mixed ^ key.astype(np.int64).astype(np.uint32)) * np.uint32(2654435761)
        mixed ^= mixed >> np.uint32(15)
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def _wrap(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


def shade_faces(
    faces: Faces, ids: np.ndarray, u: np.ndarray, v: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (P, 3) and glow (P,) of P pixels.

    ids: (P,) the face each shows. u, v: (P,) metres along the face and up. depth: (P,) metres.
    """
    color = faces.color[ids]
    glow = faces.glow[ids]
    material = faces.material[ids]
    # Detail finer than a pixel would only flicker, so it fades with depth.
    near = 1 / (1 + depth * np.float32(0.06))
    tone = 1 + np.float32(0.10) * noise(u, v, 9)

    plaster = np.flatnonzero(
        (material == Material.PLASTER)
        | (material == Material.PANELS)
        | (material == Material.BRICK)
        | (material == Material.FACADE)
    )
    pu, pv = u[plaster], v[plaster]
    tone[plaster] += 0.16 * noise(pu, pv, 40) * near[plaster] + 0.14 * noise(pu, pv, 3.1)

    at = np.flatnonzero(material == Material.BRICK)
    row = np.floor(v[at] / 0.22)
    joint = (_wrap(v[at] / 0.22) < 0.18) | (_wrap(u[at] / 0.5 + row * 0.5) < 0.08)
    brick = scramble(np.floor(u[at] / 0.5 + row * 0.5), row)
    tone[at] += near[at] * (0.25 * (brick - 0.5) + np.where(joint, 0.22, 0))

    at = np.flatnonzero(material == Material.PANELS)
    joint = (_wrap(u[at] / 2.4) < 0.03) | (_wrap(v[at] / 1.3) < 0.045)
    tone[at] -= 0.3 * joint * near[at]

    at = np.flatnonzero(material == Material.RIBS)
    tone[at] += 0.16 * near[at] * np.sign(_wrap(u[at] / 0.5) - 0.5)

    at = np.flatnonzero(material == Material.LEAVES)
    lu, lv = u[at], v[at]
    leaves = 0.75 * noise(lu + ids[at], lv, 26) + 0.5 * noise(lu, lv + ids[at], 75)
    tone[at] += leaves
    color[at, 0] += 0.06 * leaves

    color *= np.maximum(tone, 0.15)[:, None]
    at = np.flatnonzero(material == Material.FACADE)
    color[at], glow[at] = _facade(color[at], faces.style[ids[at]], ids[at], u[at], v[at])

    at = np.flatnonzero(material == Material.GLASS)
    color[at] *= (1 + 0.5 * (_wrap(u[at] * 0.35 + v[at] * 0.5) < 0.3))[:, None]
    return color, glow


def _facade(
    color: np.ndarray, style: np.ndarray, ids: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of windows over a ground floor.

    style: cell width, storey height, window width and height as parts of the cell, height of the
    ground floor, share of lit windows, brightness of the glass, height of the eaves.
    """
    cell_w, storey, part_w, part_h, ground, lit_share, glass, eaves = style.T
    above = v > ground
    cell_h = np.where(above, storey, ground)
    cu, cv = u / cell_w, np.where(above, (v - ground) / storey, v / ground)
    column, row = np.floor(cu), np.where(above, np.floor(cv) + 1, 0)
    x, y = np.abs(_wrap(cu) - 0.5) * 2, np.abs(_wrap(cv) - 0.5) * 2
    pick = scramble(column, row, ids)
    # A shop or a house at street level: wide panes, doors that reach the ground.
    door = ~above & (scramble(column, ids) < 0.3)
    wide = np.where(above, part_w, np.where(door, 0.45, 0.85))
    high = np.where(above, part_h, 0.78)
    y = np.where(door, np.maximum(_wrap(cv) / 0.78, 0.0), y / high)
    x = x / wide
    fits = v < eaves - 0.25 * cell_h
    pane = fits & (x < 1) & (y < 1)
    frame = fits & ~pane & (x < 1 + 0.16 / (wide * cell_w) * 2) & (y < 1.14)
    bar = pane & above & (np.abs(x) < 0.07) & (part_w < 0.75)

    color = color * np.where(above, 1, 0.82)[:, None]
    light = (0.55 + 0.9 * pick) * glass
    dark = np.stack([light * 0.85, light * 0.95, light * 1.1], -1)
    wood = np.stack([0.30 * pick + 0.1, 0.16 + 0.1 * pick, 0.12 + 0.12 * (1 - pick)], -1)
    color = np.where(pane[:, None], np.where(door[:, None], wood, dark), color)
    color = np.where(frame[:, None], color * 0.6 + 0.3, color)
    color = np.where(bar[:, None], np.float32(0.55), color)
    band = above & (_wrap((v - ground) / storey) < 0.05)
    color = np.where((band & ~pane)[:, None], color * 0.8, color)
    lit = pane & ~door & (scramble(row, column, ids + 7) < lit_share)
    return color.astype(np.float32), np.where(lit, 0.75 + 0.35 * pick, 0).astype(np.float32)
