"""What stands in a street: from a plan to the list of items with their places."""

import functools
import math
from collections.abc import Callable

import numpy as np

from dpanet_jax.streets import blocks, furniture, people, vehicles
from dpanet_jax.streets.camera import Frame
from dpanet_jax.streets.canvas import Canvas, Color, Label, Material
from dpanet_jax.streets.light import Light
from dpanet_jax.streets.plan import Item, walk_middle
from dpanet_jax.streets.street import Street

END = 95.0

Span = tuple[float, float]
Draw = Callable[[], object]


class Scene:
    """Collects items; every one gets its own generator, so that one more does not change another."""

    def __init__(
        self, canvas: Canvas, street: Street, light: Light, rng: np.random.Generator, lane: float
    ) -> None:
        self.canvas, self.street, self.light, self.rng = canvas, street, light, rng
        self.lane = lane
        self.items: list[Item] = []
        self.taken: list[tuple[float, float, float, float]] = []

    def add(self, along: Span, across: Span, draw: Draw) -> None:
        self.items.append(Item(along, across, draw))

    def claim(self, s0: float, s1: float, d0: float, d1: float) -> bool:
        """Takes a piece of ground; false when something is there already."""
        for t0, t1, e0, e1 in self.taken:
            if s0 < t1 and t0 < s1 and d0 < e1 and e0 < d1:
                return False
        self.taken.append((s0, s1, d0, d1))
        return True

    def child(self) -> np.random.Generator:
        return np.random.default_rng(self.rng.integers(0, 1 << 62, 2))

    def frame(self, s: float, d: float, heading: float = 0.0) -> Frame:
        return Frame(self.canvas.camera, s, d, heading)


def add_lots(scene: Scene, side: int) -> None:
    """Fills one side, from near to far, with buildings, walls, fences, hedges and parks."""
    rng, street = scene.rng, scene.street
    edge = street.edge(side)
    city = rng.random() < 0.6
    odds = np.array([0.34, 0.27, 0.29, 0.05, 0.05] if city else [0.14, 0.31, 0.33, 0.1, 0.12])
    along = rng.uniform(-2, 4)
    while along < END:
        length = rng.uniform(7, 18)
        kind = ["building", "wall", "fence", "hedge", "park"][int(rng.choice(5, p=odds))]
        if street.crossing and not street.open_at(along, length, side):
            start, end = street.crossing[0] - 2.2, street.crossing[1] + 2.2
            if along < start - 4:
                length = start - along
            else:
                along = end
                continue
        setback = 0.0 if kind == "building" else rng.uniform(3, 11)
        behind = kind == "building" or rng.random() < 0.65
        if behind:
            _add_stretch(scene, side, along, along + length, edge + side * setback, "building", 12)
        if kind in ("wall", "fence", "hedge"):
            _add_stretch(scene, side, along, along + length, edge, kind, 0.35)
        if kind != "building":
            for _ in range(int(rng.integers(0, 2))):
                s, d = rng.uniform(along + 1, along + length), rng.uniform(1.2, max(setback, 2.5))
                add_tree(scene, s, edge + side * d, rng.uniform(4, 10))
        if kind == "park":
            for _ in range(int(rng.integers(1, 4))):
                s, d = rng.uniform(along + 1, along + length), edge + side * rng.uniform(0.6, 3)
                size, draw = rng.uniform(0.7, 1.6), scene.child()
                scene.add(
                    (s - 0.1, s + 0.1), (d - 0.4, d + 0.4),
                    functools.partial(furniture.draw_bush, scene.canvas, scene.frame(s, d), draw, size),
                )  # fmt: skip
        along += length if kind != "building" else length + (rng.random() < 0.2) * 2


def _add_stretch(
    scene: Scene, side: int, start: float, end: float, front: float, kind: str, thick: float
) -> None:
    draw, sun, night = scene.child(), scene.light.sun, scene.light.night
    stretch = blocks.Stretch(scene.canvas, start, end, front, side)
    paint = {
        "building": lambda: blocks.draw_building(stretch, draw, sun, night),
        "wall": lambda: blocks.draw_wall(stretch, draw, sun),
        "fence": lambda: blocks.draw_fence(stretch, draw, sun),
        "hedge": lambda: blocks.draw_hedge(stretch, draw, sun),
    }[kind]
    scene.add((start, end), (min(front, front + side * thick), max(front, front + side * thick)), paint)


def add_backdrop(scene: Scene) -> None:
    """Closes the view at the end of the street with houses or trees."""
    rng = scene.rng
    if rng.random() < 0.65:
        d = -60.0
        while d < 60:
            wide, high, s = rng.uniform(9, 18), rng.uniform(8, 20), END + rng.uniform(8, 25)
            color = blocks.stone(rng)
            style = blocks.facade_style(rng, high, scene.light.night)

            def draw(
                d: float = d,
                wide: float = wide,
                high: float = high,
                s: float = s,
                color: Color = color,
                style: tuple[float, ...] = style,
            ) -> None:
                corners = [(d, 0.0), (d, high), (d + wide, high), (d + wide, 0.0)]
                points = [scene.canvas.camera.world(s, a, y) for a, y in corners]
                scene.canvas.face(points, Label.BUILDING, color, Material.FACADE, style=style)

            scene.add((s, s + 10), (d, d + wide), draw)
            d += wide
    for _ in range(int(rng.integers(2, 9))):
        add_tree(scene, END + rng.uniform(2, 6), rng.uniform(-45, 45), rng.uniform(7, 13))


def add_tree(scene: Scene, s: float, d: float, size: float) -> None:
    draw = scene.child()
    scene.add(
        (s - 0.2, s + 0.2), (d - 0.2, d + 0.2),
        lambda: furniture.draw_tree(scene.canvas, scene.frame(s, d), draw, scene.light.sun, size),
    )  # fmt: skip


def add_large(scene: Scene, parking: list[bool], kinds: list[str]) -> None:
    """Places trucks, buses and trams where they are seen well: each where no other one stands."""
    rng, street = scene.rng, scene.street
    for kind in kinds:
        slots = ["ahead", "oncoming", "oncoming"]
        if street.crossing is not None:
            slots.append("crossing")
        if kind != "train" and any(parking):
            slots += ["parked", "parked"]
        rng.shuffle(slots)
        long = {"train": rng.uniform(15, 26), "bus": 11.5, "truck": 8.8}[kind]
        for slot in slots:
            if _place_large(scene, parking, kind, slot, long):
                break


def _place_large(scene: Scene, parking: list[bool], kind: str, slot: str, long: float) -> bool:
    rng, street, lane = scene.rng, scene.street, scene.lane
    if slot == "crossing" and street.crossing:
        start, end, left, right = street.crossing
        s = rng.uniform(start + 1.5, end - 1.5)
        heading = math.pi / 2 * (1 if rng.random() < 0.5 else -1)
        d = rng.uniform(-2, 3) + (left - right) * -long * 0.3
        box = (s - 1.4, s + 1.4, d - long / 2, d + long / 2)
    else:
        first = {"ahead": rng.uniform(8, 13), "oncoming": rng.uniform(6.5, 14),
                 "parked": rng.uniform(6, 13)}[slot]  # fmt: skip
        s, heading = first + long / 2, 0.0
        if slot == "oncoming":
            d, heading = -lane / 2, math.pi
        elif slot == "ahead":
            d = lane / 2
        else:
            side = 1 if parking[1] and (rng.random() < 0.6 or not parking[0]) else -1
            d = (street.right - 1.2) if side > 0 else (street.left + 1.2)
            heading = 0.0 if side > 0 else math.pi
        box = (first, first + long, d - 1.3, d + 1.3)
    if not scene.claim(*box):
        return False
    if kind == "train" and slot != "crossing":
        street.rails.append(d)
    draw = scene.child()
    frame, canvas, night = scene.frame(s, d, heading), scene.canvas, scene.light.night
    _add_vehicle(scene, box, frame, {
        "truck": lambda: vehicles.draw_truck(canvas, frame, draw, night),
        "bus": lambda: vehicles.draw_bus(canvas, frame, draw, night),
        "train": lambda: vehicles.draw_tram(canvas, frame, draw, night, long),
    }[kind], 3.2)  # fmt: skip
    return True


def _add_vehicle(
    scene: Scene, box: tuple[float, float, float, float], frame: Frame, draw: Draw, high: float
) -> None:
    s0, s1, d0, d1 = box

    def cast_and_draw() -> None:
        camera = scene.canvas.camera
        foot = [camera.world(s, d) for s, d in ((s0, d0), (s1, d0), (s1, d1), (s0, d1))]
        scene.canvas.cast(foot, 0.2, high, scene.light.sun)
        draw()

    scene.add((s0, s1), (d0, d1), cast_and_draw)


def add_cars(scene: Scene, parking: list[bool]) -> None:
    """Parked cars in rows, and cars that drive."""
    rng, street, lane = scene.rng, scene.street, scene.lane
    places = []
    for side in (-1, 1):
        if parking[side > 0]:
            d = street.right - 1.15 if side > 0 else street.left + 1.15
            s = rng.uniform(4, 9)
            while s < 40:
                if rng.random() < 0.7:
                    places.append((s, d, 0.0 if side > 0 or rng.random() < 0.3 else math.pi))
                s += rng.uniform(5.2, 7.5)
    for d, heading, most in ((lane / 2, 0.0, 2), (-lane / 2, math.pi, 3)):
        for _ in range(int(rng.integers(0, most + 1))):
            places.append((rng.uniform(7, 34), d + rng.uniform(-0.3, 0.3), heading))
    if street.crossing is not None and rng.random() < 0.5:
        s = (street.crossing[0] + street.crossing[1]) / 2
        places.append((s, rng.uniform(-8, 8), math.pi / 2 * (1 if rng.random() < 0.5 else -1)))
    for s, d, heading in places:
        half = (2.4, 0.95) if abs(math.cos(heading)) > 0.5 else (0.95, 2.4)
        box = (s - half[0], s + half[0], d - half[1], d + half[1])
        mouth = street.crossing
        if abs(d) > lane and mouth and s + 3 > mouth[0] and s - 3 < mouth[1] and half[0] > 2:
            continue
        if not scene.claim(*box):
            continue
        frame, draw = scene.frame(s, d, heading + rng.normal(0, 0.02)), scene.child()
        _add_vehicle(
            scene, box, frame,
            functools.partial(vehicles.draw_car, scene.canvas, frame, draw, scene.light.night), 1.4,
        )  # fmt: skip


def add_figure(scene: Scene, s: float, d: float, draw: Draw, depth: float = 0.25, high: float = 1.6) -> None:
    """Something narrow that casts a shadow like a person."""

    def cast_and_draw() -> None:
        foot = scene.frame(s, d).place([(-0.25, 0, 0), (0, 0, 0.15), (0.25, 0, 0), (0, 0, -0.15)])
        scene.canvas.cast(foot, 0, high, scene.light.sun)
        draw()

    scene.add((s - depth, s + depth), (d - 0.3, d + 0.3), cast_and_draw)


def add_people(scene: Scene) -> None:
    """People on the sidewalks, on the zebra crossing, and some who cross elsewhere."""
    rng, street = scene.rng, scene.street
    places = []
    for side in (-1, 1):
        middle, width = walk_middle(street, side)
        for _ in range(int(rng.poisson(2.4))):
            s = float(7 + 9 * rng.random() ** 1.3)
            for _ in range(1 + int(rng.random() < 0.35)):
                d = middle + rng.uniform(-0.4, 0.4) * width
                places.append((s + rng.uniform(-0.4, 0.4), d, rng.choice([0, math.pi])))
    if street.zebra is not None:
        for _ in range(int(rng.integers(0, 4))):
            d = rng.uniform(street.left, street.right)
            turn = math.pi / 2 * rng.choice([-1, 1])
            places.append((street.zebra + rng.uniform(0.6, 2.4), d, turn))
    if rng.random() < 0.55:
        # Somebody crosses anywhere, near enough to be seen well.
        turn = math.pi / 2 * rng.choice([-1, 1])
        for _ in range(int(rng.integers(1, 3))):
            places.append((rng.uniform(4.5, 9), rng.uniform(-0.8, 1.0) * street.right, turn))
    for s, d, heading in places:
        if not scene.claim(s - 0.3, s + 0.3, d - 0.3, d + 0.3):
            continue
        draw, frame, turn = scene.child(), scene.frame(s, d), heading + rng.normal(0, 0.5)
        add_figure(
            scene, s, d,
            functools.partial(people.draw_person, scene.canvas, frame, turn, draw),
        )  # fmt: skip


def add_two_wheelers(scene: Scene) -> None:
    """Cyclists and motorcyclists on the road; bicycles and motorcycles left by the curb."""
    rng, street, lane = scene.rng, scene.street, scene.lane
    canvas, night = scene.canvas, scene.light.night

    def place(kind: str, s: float, d: float, heading: float, ridden: bool) -> None:
        if not scene.claim(s - 0.6, s + 0.6, d - 0.5, d + 0.5):
            return
        draw, frame = scene.child(), scene.frame(s, d)
        add_figure(scene, s, d, {
            "bicycle": lambda: people.draw_bicycle(canvas, frame, heading, draw, ridden),
            "motorcycle": lambda: people.draw_motorcycle(
                canvas, frame, heading, draw, ridden, night
            ),
        }[kind], 0.3, 1.5 if ridden else 0.8)  # fmt: skip

    for kind, chance in (("bicycle", 0.55), ("motorcycle", 0.55)):
        if rng.random() < chance:
            for _ in range(1 + int(rng.random() < 0.3)):
                s, way = rng.uniform(4.2, 9), rng.random()
                d, heading = rng.uniform(lane * 0.75, lane + 0.3), rng.normal(0, 0.5)
                if way < 0.3:
                    d, heading = rng.uniform(-lane, -0.6), math.pi + rng.normal(0, 0.5)
                elif way < 0.6:
                    d = rng.uniform(-lane, lane)
                    heading = math.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.3)
                place(kind, s, d, heading, True)
    for kind, chance in (("bicycle", 0.45), ("motorcycle", 0.4)):
        if rng.random() < chance:
            side = 1 if rng.random() < 0.6 else -1
            edge = street.right if side > 0 else street.left
            s, turn = rng.uniform(4.2, 9), rng.choice([-1, 1]) * rng.uniform(0.9, 1.6)
            for i in range(int(rng.integers(1, 4))):
                place(kind, s + 1.3 * i, edge + side * rng.uniform(0.5, 1.1), turn, False)


def add_furniture(scene: Scene) -> None:
    """Lamps, trees, signs and traffic lights in a line along the curb."""
    rng, street, canvas = scene.rng, scene.street, scene.canvas
    sun, night = scene.light.sun, scene.light.night

    def place(s: float, side: int, draw: Callable[..., object], *how: float, inset: float = 0.0) -> None:
        edge = street.right if side > 0 else street.left
        d = edge + side * (0.5 + inset)
        if street.open_at(s - 0.3, 0.6, side) and scene.claim(s - 0.3, s + 0.3, d - 0.3, d + 0.3):
            frame, child = scene.frame(s, d), scene.child()
            paint = functools.partial(draw, canvas, frame, child, sun, *how)
            scene.add((s - 0.1, s + 0.1), (d - 0.1, d + 0.1), paint)

    for side in (-1, 1):
        arm = -side * rng.uniform(1.2, 2.2)
        step, s = rng.uniform(14, 24), rng.uniform(7, 16)
        if rng.random() < 0.6:
            while s < 32:
                place(s, side, furniture.draw_lamp, night, arm)
                s += step
        if rng.random() < 0.35:
            step, s, size = rng.uniform(8, 13), rng.uniform(5, 12), rng.uniform(4.5, 8)
            while s < 75:
                scale = size * rng.uniform(0.85, 1.15)
                place(s, side, furniture.draw_tree, scale, inset=0.4)
                s += step * rng.uniform(0.8, 1.2)
        for _ in range(int(rng.integers(0, 3))):
            board = rng.random() < 0.22
            s = rng.uniform(6, 16) if not board else rng.uniform(9, 20)
            place(s, side, furniture.draw_sign, board, inset=1.0 if board else 0.0)
        signal = street.crossing[0] - 1.2 if street.crossing else rng.uniform(6, 14)
        if rng.random() < (0.7 if street.crossing else 0.45):
            reach = -side * rng.uniform(2.2, 3.6) if rng.random() < 0.45 else 0.0
            spots = [min(signal, rng.uniform(6.5, 14))]
            if street.crossing and rng.random() < 0.5:
                spots.append(street.crossing[1] + 3)
            for s in spots:
                place(s, side, furniture.draw_traffic_light, reach, inset=-0.1)
