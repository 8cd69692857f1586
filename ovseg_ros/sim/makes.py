"""Makes of scenes: how objects, surfaces, light and camera are drawn. Lengths in metres, angles in degrees.

`USUAL` is the tabletop as documented. `WIDE` varies everything more, for training. `OTHER` is a hold-out of another
make: surfaces, shades, light and lenses that the two others never draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovseg_ros.sim import categories

Range = tuple[float, float]
Color = tuple[float, float, float]

_COLORS = {
    "red": (0.80, 0.07, 0.07),
    "orange": (0.95, 0.45, 0.04),
    "yellow": (0.92, 0.82, 0.08),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.08, 0.22, 0.80),
    "purple": (0.48, 0.12, 0.62),
    "white": (0.93, 0.93, 0.93),
    "black": (0.06, 0.06, 0.07),
}
_WOOD_TINTS = ((0.62, 0.42, 0.24), (0.45, 0.29, 0.17), (0.78, 0.62, 0.42))
_TINTS = ((0.75, 0.74, 0.70), (0.55, 0.58, 0.62), (0.66, 0.55, 0.48), (0.50, 0.58, 0.50), (0.82, 0.80, 0.76))
_MAT_TINTS = ((0.35, 0.45, 0.62), (0.60, 0.38, 0.38), (0.42, 0.55, 0.40), (0.60, 0.56, 0.42), (0.52, 0.42, 0.58))


@dataclass(frozen=True, slots=True)
class Make:
    """Ranges are drawn from evenly; where both ends are the same, nothing is drawn. Defaults are of `USUAL`.

    Attributes:
        object_count: least and most objects.
        object_size: half an object's typical extent.
        stretch: factor on an object's height; balls stay round.
        colors: red, green and blue of each named colour, in [0, 1].
        color_gain, color_jitter: range of a factor on them, and deviation of what is added.
        gloss: (specular, shininess) of each material, as MuJoCo has them, as ranges.
        textures: kinds of each surface; one that occurs twice is drawn twice as often.
        flat: share of the plain surfaces that have no grain at all.
        wood_tints, tints, mat_tints: base colours of wooden surfaces, others, and mats.
        tint_gain, tint_jitter: as of colours.
        repeat: factor on how often a texture repeats.
        surface_gloss: specular and shininess of surfaces.
        reflectance: of table and floor; below 0 means none.
        table_half_size: half its extent in x and in y.
        room_half_size: half the room's width.
        lights: least and most spot lights.
        light_spread, light_height: largest |x| and |y|, and height above the floor.
        light_tint: warm to cold, as added to red and taken from blue.
        light_diffuse, ambient, headlight: brightness of spot lights, of all directions, and of the camera's light.
        shadowless: share of scenes without shadows.
        look_at: largest |x| and |y| of where the camera looks.
        distance, elevation, vertical_fov: of the camera; elevation is negative when it looks down.
    """

    object_count: tuple[int, int] = (4, 10)
    object_size: Range = (0.036, 0.054)
    stretch: Range = (1.0, 1.0)
    colors: Mapping[str, Color] = field(default_factory=lambda: _COLORS)
    color_gain: Range = (0.85, 1.1)
    color_jitter: float = 0.03
    gloss: Mapping[str, tuple[Range, Range]] = field(
        default_factory=lambda: {
            "matte": ((0.05, 0.05), (0.1, 0.1)),
            "shiny": ((0.7, 0.7), (0.6, 0.6)),
            "metallic": ((1.0, 1.0), (0.95, 0.95)),
        }
    )
    textures: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: categories.TEXTURES)
    flat: float = 0.0
    wood_tints: tuple[Color, ...] = _WOOD_TINTS
    tints: tuple[Color, ...] = _TINTS
    mat_tints: tuple[Color, ...] = _MAT_TINTS
    tint_gain: Range = (1.0, 1.0)
    tint_jitter: float = 0.04
    repeat: Range = (0.7, 1.4)
    surface_gloss: Range = (0.1, 0.1)
    reflectance: Range = (0.0, 0.0)
    table_half_size: tuple[Range, Range] = ((0.55, 0.55), (0.45, 0.45))
    room_half_size: Range = (1.8, 1.8)
    lights: tuple[int, int] = (1, 2)
    light_spread: float = 1.2
    light_height: Range = (1.8, 2.4)
    light_tint: Range = (-0.08, 0.08)
    light_diffuse: Range = (0.35, 0.65)
    ambient: Range = (0.3, 0.45)
    headlight: Range = (0.1, 0.3)
    shadowless: float = 0.0
    look_at: float = 0.08
    distance: Range = (0.56, 0.88)
    elevation: Range = (-62, -22)
    vertical_fov: Range = (42, 50)


USUAL = Make()
_ANY_TEXTURE = ("plain",) * 6 + tuple(sorted({kind for kinds in categories.TEXTURES.values() for kind in kinds}))
WIDE = Make(
    object_count=(2, 13),
    object_size=(0.027, 0.068),
    stretch=(0.82, 1.22),
    color_gain=(0.7, 1.15),
    color_jitter=0.045,
    gloss={
        "matte": ((0.0, 0.1), (0.0, 0.2)),
        "shiny": ((0.4, 0.9), (0.3, 0.8)),
        "metallic": ((0.8, 1.0), (0.7, 1.0)),
    },
    textures=dict.fromkeys(categories.TEXTURES, _ANY_TEXTURE),
    flat=0.7,
    tint_gain=(0.4, 1.2),
    tint_jitter=0.12,
    repeat=(0.4, 2.5),
    surface_gloss=(0.0, 0.7),
    reflectance=(-0.3, 0.25),
    table_half_size=((0.45, 0.85), (0.42, 0.75)),
    room_half_size=(1.8, 3.0),
    lights=(1, 4),
    light_spread=1.6,
    light_height=(1.3, 2.6),
    light_tint=(-0.2, 0.2),
    light_diffuse=(0.15, 0.6),
    ambient=(0.12, 0.55),
    headlight=(0.0, 0.4),
    shadowless=0.15,
    look_at=0.2,
    distance=(0.45, 1.15),
    elevation=(-80, -14),
    vertical_fov=(34, 58),
)
OTHER = Make(
    object_size=(0.04, 0.06),
    colors={
        "red": (0.74, 0.10, 0.13),
        "orange": (0.93, 0.48, 0.12),
        "yellow": (0.89, 0.81, 0.20),
        "green": (0.18, 0.55, 0.18),
        "blue": (0.14, 0.28, 0.72),
        "purple": (0.46, 0.18, 0.58),
        "white": (0.90, 0.89, 0.86),
        "black": (0.09, 0.09, 0.09),
    },
    color_jitter=0.02,
    gloss=dict.fromkeys(categories.MATERIALS, ((0.0, 0.0), (0.0, 0.0))),
    textures=dict.fromkeys(categories.TEXTURES, ("plain", "plain", "dotted", "zigzag", "planked")),
    flat=1.0,
    wood_tints=(),  # none of its surfaces is wooden
    tints=((0.46, 0.66, 0.68), (0.70, 0.48, 0.36), (0.30, 0.32, 0.36), (0.88, 0.86, 0.88), (0.62, 0.66, 0.40)),
    mat_tints=((0.20, 0.30, 0.30), (0.74, 0.66, 0.60), (0.50, 0.24, 0.30)),
    repeat=(0.5, 1.2),
    surface_gloss=(0.0, 0.0),
    table_half_size=((0.9, 1.0), (0.5, 0.6)),
    room_half_size=(3.2, 3.6),
    lights=(1, 1),
    light_height=(2.7, 3.0),
    light_tint=(-0.3, 0.3),
    light_diffuse=(0.45, 0.6),
    ambient=(0.4, 0.5),
    headlight=(0.0, 0.05),
    distance=(0.42, 0.64),
    elevation=(-70, -20),
    vertical_fov=(58.5, 62),
)
