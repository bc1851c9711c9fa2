"""Sky, sun, haze, and the camera's sensor: from albedo to the picture."""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

from dpanet_jax.streets.surfaces import noise


@dataclasses.dataclass
class Light:
    """The light of a scene. Colours are linear, about 0..1.

    sun: unit vector towards it, or None when no shadow is seen. sun_color, ambient: what a face
    gets from the sun and from all around. zenith, horizon: the sky. haze: metres until two thirds
    of a thing's colour is the air's. clouds: 0..1. night: lamps and windows shine.
    """

    sun: tuple[float, float, float] | None
    sun_color: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    haze: float
    clouds: float
    cloud_color: np.ndarray
    night: bool


def choose_light(rng: np.random.Generator) -> Light:
    """Draws a time of day and a weather."""
    kind = rng.choice(["sunny", "hazy", "overcast", "dusk", "night"], p=[0.5, 0.1, 0.28, 0.08, 0.04])
    elevation = rng.uniform(0.12, 0.3) if kind == "dusk" else rng.uniform(0.4, 1.1)
    azimuth = rng.uniform(-np.pi, np.pi)
    level = np.cos(elevation)
    sun = (float(level * np.sin(azimuth)), float(np.sin(elevation)), float(level * np.cos(azimuth)))
    white = np.ones(3)
    blue = np.array([rng.uniform(0.2, 0.42), rng.uniform(0.45, 0.6), rng.uniform(0.75, 0.98)])
    gray = white * rng.uniform(0.62, 0.9)
    if kind == "sunny":
        warm = np.array([1.0, 0.94, 0.82])
        return Light(
            sun, 0.85 * warm, np.array([0.36, 0.40, 0.47]), blue, 0.5 * blue + 0.48,
            rng.uniform(250, 600), rng.uniform(0, 0.75), 0.97 * white, False,
        )  # fmt: skip
    if kind == "hazy":
        return Light(
            sun, 0.45 * np.array([1, 0.95, 0.88]), 0.55 * white, 0.6 * blue + 0.33, 0.86 * white,
            rng.uniform(70, 140), rng.uniform(0.2, 0.7), 0.9 * white, False,
        )  # fmt: skip
    if kind == "overcast":
        return Light(
            None, 0 * white, np.array([0.74, 0.76, 0.8]), gray, 0.4 * gray + 0.5,
            rng.uniform(110, 300), rng.uniform(0.5, 1), gray * 0.82, False,
        )  # fmt: skip
    if kind == "dusk":
        glow = np.array([0.98, rng.uniform(0.55, 0.75), rng.uniform(0.32, 0.55)])
        return Light(
            sun, 0.75 * glow, np.array([0.36, 0.34, 0.42]), np.array([0.30, 0.36, 0.58]), glow,
            rng.uniform(120, 300), rng.uniform(0.2, 0.8), 0.5 * glow + np.array([0.2, 0.16, 0.25]),
            rng.random() < 0.5,
        )  # fmt: skip
    deep = np.array([0.07, 0.09, 0.17]) * rng.uniform(0.8, 1.8)
    return Light(
        None, 0 * white, np.array([0.27, 0.27, 0.34]), deep, deep + np.array([0.14, 0.10, 0.09]),
        rng.uniform(100, 250), rng.uniform(0, 0.8), deep * 1.6, True,
    )  # fmt: skip


def draw_sky(light: Light, rays: np.ndarray, shift: float) -> np.ndarray:
    """Colours (P, 3) of the sky along P rays (P, 3). shift moves the clouds."""
    up = np.maximum(rays[:, 1], 0) + np.float32(0.02)
    height = np.minimum(up * np.float32(2.2), 1)[:, None]
    color = light.horizon.astype(np.float32) * (1 - height) + light.zenith.astype(np.float32) * height
    if light.clouds > 0:
        plane = 1 / (up + np.float32(0.12))
        u, v = rays[:, 0] * plane + np.float32(shift), plane * rays[:, 2]
        field = noise(u, v, 37) + 0.55 * noise(u, v, 119)
        cover = np.clip((field + light.clouds - 0.55) * 2.2, 0, 1)[:, None]
        shade = (1 - 0.18 * np.clip(noise(u + 3, v, 71), 0, 1))[:, None]
        color = color * (1 - 0.9 * cover) + light.cloud_color.astype(np.float32) * shade * 0.9 * cover
    return color


def illuminate(light: Light, normal: np.ndarray, shadow: np.ndarray | float) -> np.ndarray:
    """Light (P, 3) on faces with normals (P, 3); shadow: 0..1, how much of the sun is kept away."""
    bounce = (0.8 + 0.2 * normal[:, 1])[:, None]
    total = light.ambient.astype(np.float32) * bounce
    if light.sun is not None:
        toward = np.maximum(normal @ np.asarray(light.sun, np.float32), 0) * (1 - shadow)
        total = total + light.sun_color.astype(np.float32) * toward[:, None]
    return total


@dataclasses.dataclass
class Sensor:
    """How the camera renders light: gains per channel, contrast, noise, softness, darker corners."""

    gains: np.ndarray
    gamma: float
    saturation: float
    noise: float
    blur: float
    vignette: float
    bloom: float


def choose_sensor(rng: np.random.Generator, night: bool) -> Sensor:
    """Draws an exposure and a colour cast: the same paint looks different from scene to scene."""
    gains = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3)) * (1.5 if night else 1.0)
    return Sensor(
        gains=gains,
        gamma=float(np.exp(rng.normal(0, 0.08))),
        saturation=rng.uniform(0.75, 1.2),
        noise=rng.uniform(0.005, 0.016) * (1.6 if night else 1),
        blur=float(rng.choice([0.0, 0.0, 0.35, 0.6])),
        vignette=rng.uniform(0, 0.25),
        bloom=0.9 if night else 0.35,
    )


def expose(sensor: Sensor, radiance: np.ndarray, glow: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light on the sensor (H, W, 3) and light given off (H, W, 3) → picture (H, W, 3) uint8."""
    height, width, _ = radiance.shape
    if glow.any():
        lamps = Image.fromarray((np.clip(glow, 0, 1) * 255).astype(np.uint8))
        halo = lamps.filter(ImageFilter.GaussianBlur(height / 45))
        radiance = radiance + sensor.bloom * np.asarray(halo, np.float32) / 255
    gray = radiance.mean(-1, keepdims=True)
    radiance = gray + np.float32(sensor.saturation) * (radiance - gray)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    corners = 1 - np.float32(sensor.vignette) * (x * x + y * y) * 0.5
    light = np.maximum(radiance * sensor.gains.astype(np.float32) * corners[..., None], 0)
    # A shoulder in place of hard clipping keeps bright skies from turning into flat white.
    light = np.where(light > 0.75, 1 - 0.25 * np.exp(-(light - 0.75) / 0.25), light)
    picture = light ** np.float32(sensor.gamma * 0.8)
    if sensor.blur:
        soft = Image.fromarray((picture * 255).astype(np.uint8))
        picture = np.asarray(soft.filter(ImageFilter.GaussianBlur(sensor.blur)), np.float32) / 255
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + np.float32(sensor.noise) * grain * np.sqrt(0.3 + picture)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
