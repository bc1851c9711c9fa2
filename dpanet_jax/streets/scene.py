"""One scene, from its seed to an image and a label."""

import numpy as np
from PIL import Image, ImageFilter

from dpanet_jax.errors import UsageError
from dpanet_jax.streets import populate
from dpanet_jax.streets.camera import Camera
from dpanet_jax.streets.canvas import Canvas
from dpanet_jax.streets.light import (
    Light,
    choose_light,
    choose_sensor,
    draw_sky,
    expose,
    illuminate,
)
from dpanet_jax.streets.plan import choose_camera, choose_street, far_to_near
from dpanet_jax.streets.street import FAR, draw_ground
from dpanet_jax.streets.surfaces import shade_faces

# Colours are averaged over 2 × 2 samples a pixel; labels take one of them, so that none is blended.
SAMPLES = 2
LARGE = (("train", 0.42), ("bus", 0.42), ("truck", 0.42))

# Rays (H, W, 3); flat indices of the ground's pixels, their albedo and their depth.
Ground = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw_scene(seed: int, size: tuple[int, int], *, ignore_label: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a street scene.

    seed: any whole number from 0. size: (height, width) in pixels, at least 16 each; a scene keeps
    its plan at every size.

    Returns image (H, W, 3) uint8 RGB and label (H, W) uint8, the ids of `canvas.Label`, and `ignore_label`
    for the bonnet of the camera's own car. The same seed and size give the same arrays.

    Raises UsageError (a ValueError) for a negative seed or a size that is too small.
    """
    height, width = (int(n) for n in size)
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    if min(height, width) < 16:
        raise UsageError(f"size must be at least 16 × 16, not {height} × {width}")
    plan_seed, detail_seed, sensor_seed = np.random.SeedSequence(seed).spawn(3)
    rng = np.random.default_rng(plan_seed)
    light = choose_light(rng)
    sensor = choose_sensor(rng, light.night)
    lane = rng.uniform(3.0, 3.8)
    camera = choose_camera(rng, height * SAMPLES, width * SAMPLES, lane)
    canvas, ground = _draw_street(camera, light, rng, lane, np.random.default_rng(detail_seed))
    shift = rng.uniform(0, 50)
    radiance, glow = _shade(canvas, light, camera, ground, shift)
    labels = np.array(canvas.labels)
    if rng.random() < 0.4:
        _draw_bonnet(radiance, labels, rng, ignore_label)
    image = expose(sensor, _average(radiance), _average(glow), np.random.default_rng(sensor_seed))
    return image, labels[1::SAMPLES, 1::SAMPLES].copy()


def _draw_street(
    camera: Camera, light: Light, rng: np.random.Generator, lane: float, detail: np.random.Generator
) -> tuple[Canvas, Ground]:
    parking = [bool(rng.random() < 0.55), bool(rng.random() < 0.55)]
    rails = [-lane / 2, lane / 2] if rng.random() < 0.12 else []
    street = choose_street(rng, lane, parking, rails)
    canvas = Canvas(camera, np.zeros((camera.height, camera.width), np.uint8))
    scene = populate.Scene(canvas, street, light, detail, lane)
    kinds = [kind for kind, chance in LARGE if rng.random() < chance]
    rng.shuffle(kinds)
    populate.add_large(scene, parking, kinds)
    populate.add_two_wheelers(scene)
    populate.add_cars(scene, parking)
    populate.add_people(scene)
    populate.add_furniture(scene)
    for side in (-1, 1):
        populate.add_lots(scene, side)
    populate.add_backdrop(scene)
    # The plan is complete only now: trams have laid their rails.
    rays = camera.rays()
    labels, at, color, depth = draw_ground(street, camera, rays)
    canvas.labels.paste(Image.fromarray(labels))
    for item in far_to_near(scene.items, camera.position[0]):
        item.draw()
    return canvas, (rays, at, color, depth)


def _shade(
    canvas: Canvas, light: Light, camera: Camera, ground: Ground, shift: float
) -> tuple[np.ndarray, np.ndarray]:
    rays, at, ground_color, ground_depth = ground
    rays = rays.reshape(-1, 3)
    ids = np.asarray(canvas.faces).reshape(-1)
    pixels = len(ids)
    color = np.zeros((pixels, 3), np.float32)
    glow = np.zeros((pixels, 3), np.float32)
    depth = np.full(pixels, np.inf, np.float32)

    open_sky = np.ones(pixels, bool)
    open_sky[at] = False
    open_sky &= ids == 0
    sky = np.flatnonzero(open_sky)
    color[sky] = draw_sky(light, rays[sky], shift)

    seen = ids[at] == 0
    at, ground_color = at[seen], ground_color[seen]
    depth[at] = ground_depth[seen]
    softness = camera.height / 110
    shadow = np.asarray(canvas.shadow.filter(ImageFilter.GaussianBlur(softness / 2)), np.float32)
    contact = np.asarray(canvas.contact.filter(ImageFilter.GaussianBlur(softness)), np.float32)
    shadow, contact = shadow.reshape(-1)[at] / 255, contact.reshape(-1)[at] / 255
    up = np.broadcast_to(np.asarray([0, 1, 0], np.float32), (len(at), 3))
    dim = (1 - 0.5 * contact)[:, None]
    color[at] = ground_color * illuminate(light, up, shadow) * dim

    faces = canvas.table()
    at = np.flatnonzero(ids)
    which = ids[at]
    normal, ray = faces.normal[which], rays[at]
    offset = faces.offset - faces.normal @ np.asarray(camera.position, np.float32)
    facing = np.einsum("pc,pc->p", normal, ray)
    # Seen edge-on, rounding can put the plane anywhere: no farther than the ground goes.
    depth[at] = distance = np.clip(offset[which] / np.minimum(facing, -1e-4), 0.1, FAR)
    tangent = faces.tangent[which]
    u = tangent[:, 0] * (ray[:, 0] * distance + np.float32(camera.position[0]))
    u += tangent[:, 2] * (ray[:, 2] * distance + np.float32(camera.position[2]))
    v = ray[:, 1] * distance + np.float32(camera.position[1])
    albedo, shine = shade_faces(faces, which, u - faces.start[which], v, distance)
    # Corners near the ground get less light from around.
    foot = np.minimum(0.72 + 0.28 * np.clip(v, 0, 1), 1)[:, None]
    lamp = np.clip(albedo * 2.2, 0, 1) * shine[:, None]
    color[at] = albedo * illuminate(light, normal, 0.0) * foot + lamp
    glow[at] = lamp

    air = 1 - np.exp(-depth / np.float32(light.haze))
    air[sky] = 0
    color += (light.horizon.astype(np.float32) * 0.95 - color) * air[:, None]
    shape = (camera.height, camera.width, 3)
    return color.reshape(shape), glow.reshape(shape)


def _draw_bonnet(
    radiance: np.ndarray, labels: np.ndarray, rng: np.random.Generator, ignore_label: int
) -> None:
    height, width = labels.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    line = 1 - rng.uniform(0.04, 0.09) * (1 - 0.5 * np.abs(x) ** 3)
    inside = y > line
    # The bonnet mirrors the sky: lighter towards its far edge.
    tone = rng.uniform(0.03, 0.25) + 0.6 * np.clip(0.1 - (y - line), 0, 1)
    radiance[inside] = (tone * radiance[: height // 4].mean((0, 1))[:, None, None]).transpose(1, 2, 0)[inside]
    labels[inside] = ignore_label


def _average(field: np.ndarray) -> np.ndarray:
    parts = [field[i::SAMPLES, j::SAMPLES] for i in range(SAMPLES) for j in range(SAMPLES)]
    return sum(parts[1:], parts[0]) / np.float32(SAMPLES * SAMPLES)
