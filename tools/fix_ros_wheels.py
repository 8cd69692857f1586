"""Make the ROS wheels in this interpreter's environment usable for building.

Their exported CMake targets name the Python folders of the container that they were built in
(`/opt/python/cp311-cp311/include/python3.11` and so on). This points them at the interpreter that runs the script:

    .venv/bin/python tools/fix_ros_wheels.py

Running it again changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

BUILD_CONTAINER = r"/opt/python/cp\d+-cp\d+"


def point_at_this_interpreter(cmake: str) -> str:
    """Replace the build container's include and site-packages folders in CMake text by this interpreter's."""
    for folder, path in (
        (r"include/python\d\.\d+", sysconfig.get_path("include")),
        (r"lib/python\d\.\d+/site-packages", sysconfig.get_path("purelib")),
    ):
        cmake = re.sub(f"{BUILD_CONTAINER}/{folder}", lambda _, path=path: Path(path).as_posix(), cmake)
    return cmake


def main() -> None:
    exports = sorted(Path(sys.prefix).glob("share/*/cmake/*rosidl_generator_pyExport*.cmake"))
    if not exports:
        raise SystemExit(
            f"no ROS wheels in {sys.prefix}; install them with: pip install -r requirements-ros-kilted.txt"
        )
    changed = 0
    for path in exports:
        before = path.read_text()
        after = point_at_this_interpreter(before)
        if after != before:
            path.write_text(after)
            changed += 1
    print(f"ROS wheels in {sys.prefix}: {changed} of {len(exports)} CMake exports corrected")


if __name__ == "__main__":
    main()
