"""Installation without ROS: the segmenter, the tabletop and the offline tools, with the command `ovseg`.

Under ROS 2 the package is built by CMakeLists.txt.
"""

from pathlib import Path

from setuptools import find_packages, setup

# The presets lie in config/ for people and for CMake, and inside the package where it is installed.
CONFIG_PACKAGES = {
    f"ovseg_ros.config.{folder.name}": str(folder) for folder in sorted(Path("config").iterdir()) if folder.is_dir()
}
# Also what `ovseg doctor` reads.
REQUIREMENTS = Path("ovseg_ros/version_bounds.txt").read_text(encoding="utf-8").splitlines()

setup(
    name="ovseg_ros",
    version="0.1.0",
    description="Open-vocabulary panoptic segmentation of camera streams",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["ovseg_ros", "ovseg_ros.*"]),
        "ovseg_ros.config",
        "ovseg_ros.interfaces",
        *CONFIG_PACKAGES,
    ],
    package_dir={"ovseg_ros.config": "config", "ovseg_ros.interfaces": "msg", **CONFIG_PACKAGES},
    package_data={
        "ovseg_ros": ["version_bounds.txt", "weights/*"],
        "ovseg_ros.config": ["*.xml"],
        "ovseg_ros.interfaces": ["*.msg"],
        **{package: ["*"] for package in CONFIG_PACKAGES},
    },
    # Not required: on a GPU, another package than onnxruntime brings it.
    extras_require={"export": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2", "onnxscript>=0.5,<1"]},
    install_requires=[line for line in REQUIREMENTS if line and not line.startswith("#")],
    entry_points={"console_scripts": ["ovseg=ovseg_ros.offline.cli.__main__:main"]},
)
