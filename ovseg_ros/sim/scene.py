"""A random tabletop: which objects, where, how they look, the light and the camera. Text and numbers only, no physics.

A scene is a function of (split, seed); splits never share a random stream.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from ovseg_ros.sim import categories
from ovseg_ros.sim.shapes import MESHES
from ovseg_ros.sim.textures import make_texture

SPLITS = {"train": 1, "val": 2, "test": 3, "captions": 4}
"""Names of the splits; the number starts a split's random stream. `train` shows seen categories only."""

TABLE_HEIGHT = 0.7
TABLE_HALF_SIZE = (0.55, 0.45)
OBJECT_COUNT = (4, 10)
OBJECT_SIZE = (0.036, 0.054)
"""Half an object's typical extent, metres."""
_MESH_SCALE = {"star": 1.25, "bottle": 1.3, "banana": 1.25, "bowl": 1.15}
"""Slender shapes are drawn larger, so that all shapes cover about the same area."""
ROOM_HALF_SIZE = 1.8

_RGB = {
    "red": (0.80, 0.07, 0.07),
    "orange": (0.95, 0.45, 0.04),
    "yellow": (0.92, 0.82, 0.08),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.08, 0.22, 0.80),
    "purple": (0.48, 0.12, 0.62),
    "white": (0.93, 0.93, 0.93),
    "black": (0.06, 0.06, 0.07),
}
_GLOSS = {"matte": (0.05, 0.1), "shiny": (0.7, 0.6), "metallic": (1.0, 0.95)}  # MuJoCo's (specular, shininess)
_SURFACE_TINTS = {
    "wooden": ((0.62, 0.42, 0.24), (0.45, 0.29, 0.17), (0.78, 0.62, 0.42)),
    "other": ((0.75, 0.74, 0.70), (0.55, 0.58, 0.62), (0.66, 0.55, 0.48), (0.50, 0.58, 0.50), (0.82, 0.80, 0.76)),
}
_MAT_TINTS = ((0.35, 0.45, 0.62), (0.60, 0.38, 0.38), (0.42, 0.55, 0.40), (0.60, 0.56, 0.42), (0.52, 0.42, 0.58))


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: what it is and how it starts its fall onto the table (metres, radians, quaternion w x y z)."""

    shape: str
    color: str
    material: str
    rgb: tuple[float, float, float]
    size: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

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
    rng = np.random.default_rng([SPLITS[split], seed])
    labels = categories.SEEN_THINGS if split == "train" else categories.THINGS
    count = int(rng.integers(OBJECT_COUNT[0], OBJECT_COUNT[1] + 1))
    objects: list[SceneObject] = []
    for label in rng.choice(labels, size=count):
        objects.append(_place_object(str(label), objects, rng))
    textures = {name: str(rng.choice(kinds)) for name, kinds in categories.TEXTURES.items()}
    if rng.random() >= 0.6:
        del textures["mat"]
    assets = {f"{name}.png": _texture_png(name, kind, rng) for name, kind in textures.items()}
    xml = _to_xml(objects, has_mat="mat" in textures, rng=rng)
    return Scene(tuple(objects), textures, xml, assets, random_camera(rng))


def random_camera(rng: np.random.Generator) -> CameraPose:
    """A robot's view of the table."""
    return CameraPose(
        look_at=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08)), TABLE_HEIGHT + 0.02),
        distance=float(rng.uniform(0.56, 0.88)),
        azimuth=float(rng.uniform(0, 360)),
        elevation=float(rng.uniform(-62, -22)),
        vertical_fov=float(rng.uniform(42, 50)),
    )


def _place_object(label: str, others: list[SceneObject], rng: np.random.Generator) -> SceneObject:
    color, shape = categories.split_pair(label)
    size = float(rng.uniform(*OBJECT_SIZE))
    x, y, height = 0.0, 0.0, 0.0
    for _ in range(40):
        x, y = (float(rng.uniform(-0.32, 0.32)) for _ in range(2))
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
    jitter = rng.normal(scale=0.03, size=3) * (0.4 if color in ("white", "black") else 1.0)
    rgb = np.clip(np.array(_RGB[color]) * rng.uniform(0.85, 1.1) + jitter, 0.02, 1.0)
    return SceneObject(
        shape=shape,
        color=color,
        material=str(rng.choice(categories.MATERIALS)),
        rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
        size=size,
        position=(x, y, TABLE_HEIGHT + 1.15 * size + height),
        quaternion=(float(quaternion[0]), float(quaternion[1]), float(quaternion[2]), float(quaternion[3])),
    )


def _texture_png(name: str, kind: str, rng: np.random.Generator) -> bytes:
    tints = _MAT_TINTS if name == "mat" else _SURFACE_TINTS["wooden" if kind == "wooden" else "other"]
    tint = np.clip(np.array(tints[rng.integers(len(tints))]) + rng.normal(scale=0.04, size=3), 0.05, 1.0)
    encoded, png = cv2.imencode(".png", make_texture(kind, tint, rng)[..., ::-1])
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode the {kind} texture of {name} as PNG")
    return png.tobytes()


def _numbers(values: object) -> str:
    return " ".join(f"{value:.5g}" for value in np.asarray(values).ravel())


@cache
def _mesh_attributes(shape: str) -> str:
    vertices, faces = MESHES[shape]()
    return f'vertex="{_numbers(vertices)}" face="{" ".join(map(str, faces.ravel()))}"'


def _object_geoms(item: SceneObject, index: int) -> str:
    """Geoms of one object; their names start with `thing{index}`, from which the ground truth is read."""
    size = item.size
    common = f'material="thing{index}" name="thing{index}'
    if item.shape == "cube":
        return f'<geom type="box" size="{_numbers([0.78 * size] * 3)}" {common}"/>'
    if item.shape == "ball":
        return f'<geom type="sphere" size="{0.88 * size:.5g}" {common}"/>'
    if item.shape == "cylinder":
        return f'<geom type="cylinder" size="{0.68 * size:.5g} {0.9 * size:.5g}" {common}"/>'
    if item.shape == "book":
        x, y, cover, pages = 1.15 * size, 0.85 * size, 0.05 * size, 0.2 * size
        return (
            f'<geom type="box" size="{x:.5g} {y:.5g} {cover:.5g}" pos="0 0 {pages + cover:.5g}" {common}.front"/>'
            f'<geom type="box" size="{x:.5g} {y:.5g} {cover:.5g}" pos="0 0 {-pages - cover:.5g}" {common}.back"/>'
            f'<geom type="box" size="{x:.5g} {cover:.5g} {pages:.5g}" pos="0 {cover - y:.5g} 0" {common}.spine"/>'
            f'<geom type="box" size="{0.94 * x:.5g} {0.9 * y:.5g} {pages:.5g}" pos="0 {0.02 * size:.5g} 0" '
            f'rgba="0.93 0.9 0.8 1" name="thing{index}.pages"/>'
        )
    return f'<geom type="mesh" mesh="thing{index}" {common}"/>'


def _to_xml(objects: list[SceneObject], *, has_mat: bool, rng: np.random.Generator) -> str:
    repeats = {"table": 2, "floor": 5, "wall": 3} | ({"mat": 1} if has_mat else {})
    assets, bodies = [], []
    for name, count in repeats.items():
        assets.append(f'<texture name="{name}" type="2d" file="{name}.png"/>')
        repeat = count * rng.uniform(0.7, 1.4)
        assets.append(
            f'<material name="{name}" texture="{name}" texrepeat="{repeat:.3g} {repeat:.3g}" specular="0.1" '
            f'shininess="0.1"/>'
        )
    for index, item in enumerate(objects):
        specular, shininess = _GLOSS[item.material]
        assets.append(
            f'<material name="thing{index}" rgba="{_numbers(item.rgb)} 1" specular="{specular}" '
            f'shininess="{shininess}"/>'
        )
        if item.shape in MESHES:
            scale = item.size * _MESH_SCALE.get(item.shape, 1.0)
            assets.append(
                f'<mesh name="thing{index}" inertia="convex" scale="{_numbers([scale] * 3)}" '
                f"{_mesh_attributes(item.shape)}/>"
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
    <global offwidth="1920" offheight="1920"/>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient="{_numbers([rng.uniform(0.3, 0.45)] * 3)}" diffuse="{_numbers([rng.uniform(0.1, 0.3)] * 3)}"
      specular="0.1 0.1 0.1"/>
    <map znear="0.01" zfar="20"/>
  </visual>
  <default><geom friction="0.9 0.01 0.004" condim="6" density="400"/></default>
  <asset>{"".join(assets)}</asset>
  <worldbody>
    {_lights(rng)}
    {_room()}
    {"".join(bodies)}
  </worldbody>
</mujoco>"""


def _lights(rng: np.random.Generator) -> str:
    lights = ""
    for index in range(int(rng.integers(1, 3))):
        position = np.array([*rng.uniform(-1.2, 1.2, size=2), rng.uniform(1.8, 2.4)])
        tint = 1 + rng.uniform(-0.08, 0.08) * np.array([1.0, 0.0, -1.0])  # warm to cold
        diffuse = np.clip(rng.uniform(0.35, 0.65) * tint, 0, 1)
        direction = np.array([0, 0, TABLE_HEIGHT]) - position
        lights += (
            f'<light pos="{_numbers(position)}" dir="{_numbers(direction)}" diffuse="{_numbers(diffuse)}" '
            f'specular="0.4 0.4 0.4" cutoff="75" castshadow="{"true" if index == 0 else "false"}"/>'
        )
    return lights


def _room() -> str:
    half, (table_x, table_y) = ROOM_HALF_SIZE, TABLE_HALF_SIZE
    walls = "".join(
        f'<geom name="wall{index}" type="plane" material="wall" size="{half} 1.3 0.1" pos="{x} {y} 1.3" '
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
        f'<geom name="floor" type="plane" material="floor" size="{half} {half} 0.1"/>'
        f'<geom name="table" type="box" material="table" size="{table_x} {table_y} 0.02" '
        f'pos="0 0 {TABLE_HEIGHT - 0.02}"/>{walls}{legs}'
    )
