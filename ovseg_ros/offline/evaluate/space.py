"""How well depth tells where things are, on the simulated tabletop: masks are exact, so that geometry alone errs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.errors import DepthError
from ovseg_ros.core.space.pinhole import Pinhole
from ovseg_ros.core.space.segments import measure_segments
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.sim.simulator import TabletopSimulator

_SHARES = (50, 75, 90, 95)


@dataclass
class SpaceErrors:
    """Distances in metres, one for each visible thing of each scene.

    Attributes:
        surface_centroid: from the measured centroid of the visible surface to the true one, which rays cast at MuJoCo's
            geometry give; no rendered depth and no mask takes part in it.
        box_centre: from the middle of the measured box to the middle of the object's true box.
        surface_to_centre: from the measured centroid of the visible surface to the middle of the true box: what the
            centroid alone would mislead by.
        missed: things in view that were not measured.
    """

    surface_centroid: list[float] = field(default_factory=list)
    box_centre: list[float] = field(default_factory=list)
    surface_to_centre: list[float] = field(default_factory=list)
    missed: int = 0


def measure_errors(split: str, scenes: int, seed: int, *, noise: float = 0.0) -> SpaceErrors:
    """The errors in the first view, at 320x240, of scenes of a split with seeds from `seed` on.

    `noise` is the standard deviation of the depth at 1 m, metres; it grows with the square of the depth, as in stereo.
    """
    errors, rng = SpaceErrors(), np.random.default_rng(seed)
    for number in tqdm(range(seed, seed + scenes), desc="evaluate-space", unit="scene"):
        with TabletopSimulator(number, split=split) as simulator:
            pose = simulator.scene.camera
            frame, truth = simulator.render_from(pose), simulator.object_poses(pose)
        height, width = frame.depth.shape
        spread = noise * frame.depth.astype(np.float64) ** 2
        depth = (frame.depth + rng.normal(size=frame.depth.shape) * spread).astype(np.float32)
        camera = Pinhole.from_matrix(frame.camera_matrix, width, height)
        index_of = {segment.id: segment.object_index for segment in frame.segments if segment.is_thing}
        measured = [s for s in measure_segments(depth, camera, frame.segment_ids, index_of) if s.id in index_of]
        errors.missed += len(index_of) - len(measured)
        for segment in measured:
            true = truth[index_of[segment.id]]
            errors.surface_centroid.append(float(np.linalg.norm(segment.centroid - true.surface_centroid)))
            errors.box_centre.append(float(np.linalg.norm(segment.box.centre - true.centre)))
            errors.surface_to_centre.append(float(np.linalg.norm(segment.centroid - true.centre)))
    return errors


def evaluate_space(*, split: str, scenes: int, seed: int, noise: float, json_path: Path | None) -> int:
    """Measure, print and write the figures; the exit code, 0. DepthError if nothing could be measured."""
    errors = measure_errors(split, scenes, seed, noise=noise)
    things = len(errors.box_centre)
    if not things:
        raise DepthError(f"none of {errors.missed} things was measured at a noise of {noise:g} m; give less --noise")
    report: dict[str, Any] = {"split": split, "seed": seed, "scenes": scenes, "noise": noise}
    report |= {"things": things, "missed": errors.missed}
    distances_of = {
        "surface_centroid_mm": ("visible surface's centroid", errors.surface_centroid),
        "box_centre_mm": ("box's middle to the object's middle", errors.box_centre),
        "surface_to_centre_mm": ("(visible centroid to the object's middle)", errors.surface_to_centre),
    }
    for name, (_, distances) in distances_of.items():
        report[name] = {f"p{share}": round(1000 * float(np.percentile(distances, share)), 2) for share in _SHARES}
    write_figures(json_path, report)
    told = f", depth noise {1000 * noise:g} mm at 1 m" if noise else ""
    print(f"split {split}, {scenes} scenes from seed {seed}{told}")
    print(f"{things} things measured, {errors.missed} missed; errors in mm")
    print(f"{'':42}" + "".join(f"{f'p{share}':>8}" for share in _SHARES))
    for name, (text, _) in distances_of.items():
        print(f"{text:42}" + "".join(f"{value:8.1f}" for value in report[name].values()))
    return 0
