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
    pushes = _Pushes(simulator, np.random.default_rng([4, seed]))
    for number in range(int(seconds * rate)):
        time = number / rate
        pushes.run_until(time)
        yield time, simulator.render(time)


class _Pushes:
    """Physics with somebody's hand in it, step by step."""

    def __init__(self, simulator: TabletopSimulator, rng: np.random.Generator) -> None:
        self._simulator = simulator
        self._rng = rng
        self._done = 0  # in steps of physics, so that rounding does not add up
        self._object = 0
        self._velocity = (0.0, 0.0, 0.0)

    def run_until(self, time: float) -> None:
        step = self._simulator.timestep
        period, pushing = round(PUSH_PERIOD / step), round(_PUSH_TIME / step)
        while self._done < round(time / step):
            since = self._done % period
            if since == 0:
                self._choose()
            if since < pushing:
                self._simulator.push(self._object, self._velocity)
            self._simulator.step(1)
            self._done += 1

    def _choose(self) -> None:
        """Another object, and a push towards a point near the middle."""
        self._object = int(self._rng.integers(len(self._simulator.scene.objects)))
        speed = self._rng.uniform(*_SPEED)
        target = self._rng.uniform(-_TARGET_HALF_SIZE, _TARGET_HALF_SIZE, 2)
        way = target - self._simulator.object_position(self._object)[:2]
        x, y = speed * way / max(float(np.linalg.norm(way)), 1e-6)
        self._velocity = (float(x), float(y), 0.0)
