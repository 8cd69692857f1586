"""A random tabletop: which objects, where, how they look, the light and the camera. Text and numbers only, no physics.

A scene is a function of (split, seed); splits never share a random stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from ovseg_ros.sim import categories
from ovseg_ros.sim.makes import OTHER, USUAL, WIDE, Make, Range
from ovseg_ros.sim.shapes import MESHES, Mesh
from ovseg_ros.sim.textures import make_texture

TABLE_HEIGHT = 0.7
_SPREAD = 0.32
"""Objects fall at most so far from the table's middle, in x and in y."""
_MESH_SCALE = {"star": 1.25, "bottle": 1.3, "banana": 1.25, "bowl": 1.15}
"""Slender shapes are drawn larger, so that all shapes cover about the same area."""


@dataclass(frozen=True, slots=True)
class Split:
    """What scenes are drawn from: the number that starts their random stream, categories of things, and a make."""

    stream: int
    labels: tuple[str, ...] = categories.THINGS
    make: Make = USUAL


SPLITS = {
    "train": Split(1, categories.SEEN_THINGS),
    "val": Split(2),
    "test": Split(3),
    "captions": Split(4),
    "train_wide": Split(5, categories.SEEN_THINGS, WIDE),
    "captions_wide": Split(6, make=WIDE),
    "other": Split(7, make=OTHER),
}
"""The splits by name. Those to train masks on show seen categories only; `other` is a hold-out of another make."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: what it is, how tall against its model, and how it starts its fall onto the table.

    Metres, radians, quaternion w x y z.
    """

    shape: str
    color: str
    material: str
    rgb: tuple[float, float, float]
    size: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    stretch: float

    @property
    def label(self) -> str:
        """Its category's name."""
        return categories.pair_name(self.color, self.shape)


@dataclass(frozen=True, slots=True)
class CameraPose:
    """A camera that looks at a point: metres and degrees; elevation is negative when it looks down."""

    look_at: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    vertical_fov: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that defines a scene.

    Attributes:
        objects: the things.
        textures: texture kind of each stuff category that is present.
        xml: the MuJoCo model.
        assets: the PNG files that `xml` names.
        camera: where the camera's orbit starts.
    """

    objects: tuple[SceneObject, ...]
    textures: dict[str, str]
    xml: str
    assets: dict[str, bytes]
    camera: CameraPose


def make_scene(split: str, seed: int) -> Scene:
    """The scene with this seed of a split.

    Raises:
        ValueError: for an unknown split or a negative seed.
    """
    if split not in SPLITS or seed < 0:
        raise ValueError(f"expected a split of {sorted(SPLITS)} and a seed of 0 or more, got {split!r} and {seed}")
    drawn_from = SPLITS[split]
    make, rng = drawn_from.make, np.random.default_rng([drawn_from.stream, seed])
    count = int(rng.integers(make.object_count[0], make.object_count[1] + 1))
    objects: list[SceneObject] = []
    for label in rng.choice(drawn_from.labels, size=count):
        objects.append(_place_object(str(label), objects, make, rng))
    textures = {name: str(rng.choice(kinds)) for name, kinds in make.textures.items()}
    if rng.random() >= 0.6:
        del textures["mat"]
    assets = {f"{name}.png": _texture_png(name, kind, make, rng) for name, kind in textures.items()}
    xml = _to_xml(objects, has_mat="mat" in textures, make=make, rng=rng)
    return Scene(tuple(objects), textures, xml, assets, random_camera(rng, make))


def random_camera(rng: np.random.Generator, make: Make = USUAL) -> CameraPose:
    """A robot's view of the table."""
    aim = make.look_at
    return CameraPose(
        look_at=(float(rng.uniform(-aim, aim)), float(rng.uniform(-aim, aim)), TABLE_HEIGHT + 0.02),
        distance=float(rng.uniform(*make.distance)),
        azimuth=float(rng.uniform(0, 360)),
        elevation=float(rng.uniform(*make.elevation)),
        vertical_fov=float(rng.uniform(*make.vertical_fov)),
    )


def _draw(limits: Range, rng: np.random.Generator) -> float:
    """Evenly; what does not vary is not drawn, so that a make's scenes stay when another learns to vary more."""
    return limits[0] if limits[0] == limits[1] else float(rng.uniform(*limits))


def _place_object(label: str, others: list[SceneObject], make: Make, rng: np.random.Generator) -> SceneObject:
    color, shape = categories.split_pair(label)
    size = float(rng.uniform(*make.object_size))
    x, y, height = 0.0, 0.0, 0.0
    for _ in range(40):
        x, y = (float(rng.uniform(-_SPREAD, _SPREAD)) for _ in range(2))
        gaps = [np.hypot(x - other.position[0], y - other.position[1]) - size - other.size for other in others]
        if min(gaps, default=1.0) > 0.012:
            break
    else:  # crowded: it falls onto the others
        height = 0.12
    yaw = float(rng.uniform(0, 2 * np.pi))
    quaternion = np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
    if rng.random() < 0.25:  # tipped over
        quaternion = rng.normal(size=4)
        quaternion /= np.linalg.norm(quaternion)
        height += 0.02
    jitter = rng.normal(scale=make.color_jitter, size=3) * (0.4 if color in ("white", "black") else 1.0)
    rgb = np.clip(np.array(make.colors[color]) * rng.uniform(*make.color_gain) + jitter, 0.02, 1.0)
    stretch = 1.0 if shape == "ball" else _draw(make.stretch, rng)
    return SceneObject(
        shape=shape,
        color=color,
        material=str(rng.choice(categories.MATERIALS)),
        rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
        size=size,
        position=(x, y, TABLE_HEIGHT + 1.15 * size * max(stretch, 1.0) + height),
        quaternion=(float(quaternion[0]), float(quaternion[1]), float(quaternion[2]), float(quaternion[3])),
        stretch=stretch,
    )


def _texture_png(name: str, kind: str, make: Make, rng: np.random.Generator) -> bytes:
    tints = make.mat_tints if name == "mat" else make.wood_tints if kind == "wooden" else make.tints
    base = np.array(tints[rng.integers(len(tints))]) * _draw(make.tint_gain, rng)
    tint = np.clip(base + rng.normal(scale=make.tint_jitter, size=3), 0.05, 1.0)
    is_flat = kind == "plain" and make.flat > 0 and rng.random() < make.flat
    encoded, png = cv2.imencode(".png", make_texture("flat" if is_flat else kind, tint, rng)[..., ::-1])
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode the {kind} texture of {name} as PNG")
    return png.tobytes()


def _numbers(values: object) -> str:
    return " ".join(f"{value:.5g}" for value in np.asarray(values).ravel())


@cache
def _mesh_attributes(mesh: Callable[[], Mesh]) -> str:
    vertices, faces = mesh()
    return f'vertex="{_numbers(vertices)}" face="{" ".join(map(str, faces.ravel()))}"'


def _object_geoms(item: SceneObject, index: int) -> str:
    """Geoms of one object; their names start with `thing{index}`, from which the ground truth is read."""
    size, tall = item.size, item.size * item.stretch
    common = f'material="thing{index}" name="thing{index}'
    if item.shape == "cube":
        return f'<geom type="box" size="{_numbers([0.78 * size, 0.78 * size, 0.78 * tall])}" {common}"/>'
    if item.shape == "ball":
        return f'<geom type="sphere" size="{0.88 * size:.5g}" {common}"/>'
    if item.shape == "cylinder":
        return f'<geom type="cylinder" size="{0.68 * size:.5g} {0.9 * tall:.5g}" {common}"/>'
    if item.shape == "book":
        x, y, cover, pages = 1.15 * size, 0.85 * size, 0.05 * tall, 0.2 * tall
        return (
            f'<geom type="box" size="{x:.5g} {y:.5g} {cover:.5g}" pos="0 0 {pages + cover:.5g}" {common}.front"/>'
            f'<geom type="box" size="{x:.5g} {y:.5g} {cover:.5g}" pos="0 0 {-pages - cover:.5g}" {common}.back"/>'
            f'<geom type="box" size="{x:.5g} {cover:.5g} {pages:.5g}" pos="0 {cover - y:.5g} 0" {common}.spine"/>'
            f'<geom type="box" size="{0.94 * x:.5g} {0.9 * y:.5g} {pages:.5g}" pos="0 {0.02 * size:.5g} 0" '
            f'rgba="0.93 0.9 0.8 1" name="thing{index}.pages"/>'
        )
    return f'<geom type="mesh" mesh="thing{index}" {common}"/>'


def _to_xml(objects: list[SceneObject], *, has_mat: bool, make: Make, rng: np.random.Generator) -> str:
    repeats = {"table": 2, "floor": 5, "wall": 3} | ({"mat": 1} if has_mat else {})
    assets, bodies = [], []
    for name, count in repeats.items():
        assets.append(f'<texture name="{name}" type="2d" file="{name}.png"/>')
        repeat = count * rng.uniform(*make.repeat)
        reflectance = max(0.0, _draw(make.reflectance, rng)) if name in ("table", "floor") else 0.0
        assets.append(
            f'<material name="{name}" texture="{name}" texrepeat="{repeat:.3g} {repeat:.3g}" '
            f'specular="{_draw(make.surface_gloss, rng):.4g}" shininess="{_draw(make.surface_gloss, rng):.4g}" '
            f'reflectance="{reflectance:.4g}"/>'
        )
    for index, item in enumerate(objects):
        specular, shininess = (_draw(limits, rng) for limits in make.gloss[item.material])
        assets.append(
            f'<material name="thing{index}" rgba="{_numbers(item.rgb)} 1" specular="{specular:.4g}" '
            f'shininess="{shininess:.4g}"/>'
        )
        if item.shape in MESHES:
            scale = item.size * _MESH_SCALE.get(item.shape, 1.0)
            assets.append(
                f'<mesh name="thing{index}" inertia="convex" '
                f'scale="{_numbers([scale, scale, scale * item.stretch])}" '
                f"{_mesh_attributes(MESHES[item.shape])}/>"
            )
        bodies.append(
            f'<body pos="{_numbers(item.position)}" quat="{_numbers(item.quaternion)}"><freejoint/>'
            f"{_object_geoms(item, index)}</body>"
        )
    if has_mat:
        angle, half_x, half_y = rng.uniform(0, 360), rng.uniform(0.14, 0.28), rng.uniform(0.1, 0.2)
        x, y = rng.uniform(-0.15, 0.15, size=2)
        bodies.append(
            f'<geom name="mat" type="box" material="mat" size="{half_x:.4g} {half_y:.4g} 0.002" '
            f'pos="{x:.4g} {y:.4g} {TABLE_HEIGHT + 0.002}" euler="0 0 {angle:.4g}"/>'
        )
    return f"""
<mujoco model="tabletop">
  <compiler angle="degree"/>
  <option timestep="0.004" cone="elliptic" impratio="3"/>
  <size memory="16M"/>
  <visual>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient="{_numbers([rng.uniform(*make.ambient)] * 3)}"
      diffuse="{_numbers([rng.uniform(*make.headlight)] * 3)}" specular="0.1 0.1 0.1"/>
    <map znear="0.01" zfar="20"/>
  </visual>
  <default><geom friction="0.9 0.01 0.004" condim="6" density="400"/></default>
  <asset>{"".join(assets)}</asset>
  <worldbody>
    {_lights(make, rng)}
    {_room(make, rng)}
    {"".join(bodies)}
  </worldbody>
</mujoco>"""


def _lights(make: Make, rng: np.random.Generator) -> str:
    lights, spread = "", make.light_spread
    shadows = make.shadowless == 0 or rng.random() >= make.shadowless
    for index in range(int(rng.integers(make.lights[0], make.lights[1] + 1))):
        position = np.array([*rng.uniform(-spread, spread, size=2), rng.uniform(*make.light_height)])
        tint = 1 + rng.uniform(*make.light_tint) * np.array([1.0, 0.0, -1.0])  # warm to cold
        diffuse = np.clip(rng.uniform(*make.light_diffuse) * tint, 0, 1)
        direction = np.array([0, 0, TABLE_HEIGHT]) - position
        lights += (
            f'<light pos="{_numbers(position)}" dir="{_numbers(direction)}" diffuse="{_numbers(diffuse)}" '
            f'specular="0.4 0.4 0.4" cutoff="75" castshadow="{"true" if shadows and index == 0 else "false"}"/>'
        )
    return lights


def _room(make: Make, rng: np.random.Generator) -> str:
    half = _draw(make.room_half_size, rng)
    table_x, table_y = (_draw(limits, rng) for limits in make.table_half_size)
    walls = "".join(
        f'<geom name="wall{index}" type="plane" material="wall" size="{half:.5g} 1.3 0.1" pos="{x:.5g} {y:.5g} 1.3" '
        f'xyaxes="{along} 0 0 0 1"/>'
        for index, (x, y, along) in enumerate(
            [(0, half, "1 0"), (0, -half, "-1 0"), (half, 0, "0 -1"), (-half, 0, "0 1")]
        )
    )
    legs = "".join(
        f'<geom name="table.leg{index}" type="box" material="table" size="0.03 0.03 {TABLE_HEIGHT / 2 - 0.02}" '
        f'pos="{x * (table_x - 0.05)} {y * (table_y - 0.05)} {TABLE_HEIGHT / 2 - 0.02}"/>'
        for index, (x, y) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    )
    return (
        f'<geom name="floor" type="plane" material="floor" size="{half:.5g} {half:.5g} 0.1"/>'
        f'<geom name="table" type="box" material="table" size="{table_x:.5g} {table_y:.5g} 0.02" '
        f'pos="0 0 {TABLE_HEIGHT - 0.02}"/>{walls}{legs}'
    )
