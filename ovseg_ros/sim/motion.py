"""A tabletop on which things happen: objects are pushed, roll, collide and hide each other while the camera moves."""

from collections.abc import Iterator

import numpy as np

from ovseg_ros.sim.simulator import Frame, TabletopSimulator

PUSH_PERIOD = 1.5
"""Seconds from the start of one push to the next."""

_PUSH_TIME = 0.9
_SPEED = (0.15, 0.4)
_TARGET_HALF_SIZE = 0.15


def moving_frames(
    simulator: TabletopSimulator, *, seconds: float, rate: float, seed: int
) -> Iterator[tuple[float, Frame]]:
    """Frames of one continuous take, with their times in seconds.

    In every `PUSH_PERIOD` one object is pushed across the middle of the table, 14 to 36 cm far. The same arguments give
    the same take, and what happens does not depend on the rate. A thing's identity is
    `GroundTruthSegment.object_index`.

    Args:
        simulator: a new one: its physics goes on from where it stands.
        seconds: length of the take.
        rate: frames per second.
        seed: of the pushes.
    """
    rng = np.random.default_rng([4, seed])
    step = simulator.timestep
    period, pushing = round(PUSH_PERIOD / step), round(_PUSH_TIME / step)
    done, pushed, velocity = 0, 0, (0.0, 0.0, 0.0)  # `done` in steps of physics, so that rounding does not add up
    for number in range(int(seconds * rate)):
        time = number / rate
        while done < round(time / step):
            if done % period == 0:
                pushed, velocity = _choose(simulator, rng)
            if done % period < pushing:
                simulator.push(pushed, velocity)
            simulator.step()
            done += 1
        yield time, simulator.render(time)


def _choose(simulator: TabletopSimulator, rng: np.random.Generator) -> tuple[int, tuple[float, float, float]]:
    """An object, and the velocity of a push towards a point near the middle."""
    index = int(rng.integers(len(simulator.scene.objects)))
    speed = rng.uniform(*_SPEED)
    target = rng.uniform(-_TARGET_HALF_SIZE, _TARGET_HALF_SIZE, 2)
    way = target - simulator.object_position(index)[:2]
    x, y = speed * way / max(float(np.linalg.norm(way)), 1e-6)
    return index, (float(x), float(y), 0.0)
