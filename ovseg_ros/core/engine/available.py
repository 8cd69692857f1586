"""Which engines a machine has."""

import importlib
import importlib.util
import os
import shutil

import torch


def obstacle(engine: str, device: torch.device) -> str:
    """What an engine lacks to run on a device, such as "no Triton"; empty if nothing, but perhaps an export."""
    match engine:
        case "cuda_graph" if device.type != "cuda":
            return "no CUDA device"
        case "compile" if device.type == "cuda" and not _imports("triton"):
            return "no Triton"
        case "compile" if not has_compiler(device):
            return "no C compiler" if device.type == "cuda" else "no C++ compiler"
        case "onnx" | "tensorrt" if not _imports("onnxruntime"):
            return "no ONNX Runtime"
        case "tensorrt" if device.type != "cuda":
            return "no CUDA device"
        case "tensorrt" if "TensorrtExecutionProvider" not in onnx_providers():
            return "no TensorRT in this ONNX Runtime"
    return ""


def remedy(engine: str) -> str:
    """What to do where an engine lacks something."""
    match engine:
        case "compile":
            return "install what is missing, or take engine cuda_graph on a GPU, eager, or auto"
        case "cuda_graph":
            return "take engine eager or auto, and see ovseg doctor for what this machine has"
        case "tensorrt":
            return "it needs an NVIDIA GPU and onnxruntime-gpu with TensorRT; take engine onnx or auto without them"
        case _:
            return "install onnxruntime (on a GPU, onnxruntime-gpu), or take engine auto"


def has_compiler(device: torch.device) -> bool:
    """Whether there is what torch.compile needs: for a GPU a C compiler, else a C++ compiler."""
    named = os.environ.get("CC" if device.type == "cuda" else "CXX")
    names = ("cc", "gcc", "clang") if device.type == "cuda" else ("c++", "g++", "clang++")
    return any(shutil.which(name) for name in ((named,) if named else names))


def onnx_providers() -> tuple[str, ...]:
    """What ONNX Runtime can run a model on; empty without it."""
    if not _imports("onnxruntime"):
        return ()
    return tuple(importlib.import_module("onnxruntime").get_available_providers())


def _imports(package: str) -> bool:
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except (ImportError, OSError):  # built for another system
        return False
    return True
