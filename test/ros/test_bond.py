"""The bond with a lifecycle manager, with processes that stop and die."""

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ros_support import Processes

from ovseg_ros.ros.node import bond


@pytest.mark.timeout(600)  # where the messages have to be built
def test_the_manager_hears_whether_the_node_lives(
    domain: int, tmp_path: Path, interfaces: dict[str, str], tiny_preset: Path
) -> None:
    with Processes(domain, tmp_path, **interfaces) as processes:
        here = Path(__file__).parent
        node = processes.start(here / "instrumented_node.py", preset=str(tiny_preset), autostart=False)
        manager = processes.start(here / "lifecycle_manager.py")
        manager.wait_for_output("renewed")
        assert manager.output.split() == ["silent", "formed", "busy", "broken", "renewed"]
        assert "bond.msg" not in node.output
        for number, event, heard in (
            (signal.SIGSTOP, "stopped", "lost"),
            (signal.SIGCONT, "continued", "found"),
            (signal.SIGKILL, "killed", "lost"),
        ):
            os.kill(node.pid, number)
            (tmp_path / event).touch()
            manager.wait_for_output(heard, 2 if event == "killed" else 1)
        assert manager.wait() == 0, manager.output


@pytest.mark.parametrize("has_manager", [True, False])
def test_without_the_package_a_managed_node_says_what_to_do(monkeypatch: pytest.MonkeyPatch, has_manager: bool) -> None:
    if importlib.util.find_spec("bond") is None:
        assert "ros-$ROS_DISTRO-bond" in bond.MISSING and "bond_timeout: 0.0" in bond.MISSING
    monkeypatch.setattr(bond, "MISSING", "no bond")
    said: list[tuple[str, str]] = []

    def level(name: str) -> Callable[[str], None]:
        return lambda text: said.append((name, text))

    logger = SimpleNamespace(info=level("info"), debug=level("debug"))
    context = SimpleNamespace(ok=lambda: True)
    node = SimpleNamespace(get_logger=lambda: logger, context=context)
    silent = bond.Bond(node, has_manager=has_manager)  # type: ignore[arg-type]
    silent.form()
    silent.beat()
    silent.dissolve()
    assert said == [("info" if has_manager else "debug", "no bond")]
