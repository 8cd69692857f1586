"""Installation without ROS: the segmenter, the tabletop and the offline tools, with the command `ovseg`.

Under ROS 2 the package is built by CMakeLists.txt.
"""

from pathlib import Path

from setuptools import find_packages, setup

# The presets lie in config/ for people and for CMake, and inside the package where it is installed.
CONFIG_PACKAGES = {
    f"ovseg_ros.config.{folder.name}": str(folder) for folder in sorted(Path("config").iterdir()) if folder.is_dir()
}

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
        "ovseg_ros": ["weights/*"],
        "ovseg_ros.config": ["*.xml"],
        "ovseg_ros.interfaces": ["*.msg"],
        **{package: ["*"] for package in CONFIG_PACKAGES},
    },
    install_requires=[
        "accelerate>=1.0",
        "huggingface_hub>=0.26",
        "mujoco>=3.2",
        "numpy>=1.26",
        "open_clip_torch>=2.29",
        "opencv-python>=4.8",
        "pillow>=10",
        "psutil>=5.9",
        "pycocotools>=2.0.7",
        "pydantic>=2.5",
        "PyYAML>=6",
        "rosbags>=0.10",
        "safetensors>=0.4.3",
        "scipy>=1.10",
        "tensorboard>=2.14",
        "timm>=1.0.20",
        "torch>=2.6",
        "torchvision>=0.21",
        "tqdm>=4.60",
        "transformers>=4.57,<5",
    ],
    entry_points={"console_scripts": ["ovseg=ovseg_ros.offline.cli.main:main"]},
)
