"""One rule for all commands: an option that cannot do what it says, beside the others or this input, is refused."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline import options
from ovseg_ros.offline.describe_options import DescribeOptions
from ovseg_ros.offline.measure_options import BenchOptions

_OF_EVALUATION = (
    *("preset", "name", "data", "dataset", "split", "images", "seed", "on_error"),
    *("vocabulary", "synonyms", "oracle", "min_objectness", "partial", "shard"),
    *("engine", "precision"),
)

_BY_PLACE = {"name": "NAME"}
_OF_ENGINES = ("engine", "precision", "engine_folder")
_OF_COMPARISON = ("against", "random_weights", "sweep", "peers", "plot")
_WITHOUT_EXPORT = ("eager", "compile", "cuda_graph")
_ON_THE_CPU = "this ablation computes on the CPU; --device is of ablate omtseg and lmseg"


def refuse_without_effect(told: Any, given: Collection[str]) -> None:
    """ConfigError, naming them, if options would change nothing.

    Args:
        told: what the command was told, of a class in `offline/options.py`.
        given: names of the fields that the command line gave.
    """
    for names, reason in _idle(told):
        idle = [_BY_PLACE.get(name, f"--{name.replace('_', '-')}") for name in names if name in given]
        if idle:
            raise ConfigError(
                f"{' and '.join(idle)} would change nothing: {reason}; leave {'it' if len(idle) == 1 else 'them'} out"
            )


def _refuse_name(dataset: Path) -> None:
    from ovseg_ros.offline.data.open import shipped_datasets

    if not dataset.is_dir() and (str(dataset) in shipped_datasets() or dataset.suffix in (".yaml", ".yml")):
        raise ConfigError(
            f"--dataset {dataset} is no folder; did you mean --data {dataset}? --dataset takes a folder of the "
            "tabletop, --data the name of a data set or its YAML file, and --root its folder"
        )


def _idle(told: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Fields without effect, and why."""
    match told:
        case options.SegmentOptions(engine=engine) | options.EvaluateOptions(engine=engine, merge=None) if (
            engine in _WITHOUT_EXPORT
        ):
            yield ("engine_folder",), f"the engine {engine} runs nothing that was exported"
    match told:
        case options.SegmentOptions(input=source) if source.exists():
            from ovseg_ros.offline.data.bag_files import is_bag

            if not is_bag(source):
                yield ("topic", "no_overlay", "mask_rle"), f"it is about bags, and {source} is none"
        case options.EvaluateOptions(merge=None, dataset=dataset) if dataset is not None:
            _refuse_name(dataset)
            yield ("name", "data", "root"), "--dataset DIR is short for --data tabletop --root DIR"
        case options.EvaluateOptions(merge=None, data=str()):
            yield ("name",), "--data names the data set"
        case options.EvaluateOptions(merge=parts, report=report) if parts is not None:
            yield _OF_EVALUATION, "the files of --merge say what was evaluated"
            if report is None:
                yield ("root", "device", "engine_folder"), "--merge segments nothing but the pictures of a --report"
        case options.EvaluateTrackingOptions(preset=None):
            yield ("device", "name_votes"), "without --preset nothing is segmented"
        case BenchOptions(delivered=True):
            names = ("preset", "device", "warmup", "vocabulary", "threads", "soak", *_OF_ENGINES, *_OF_COMPARISON)
            yield names, "--delivered has a stand-in for the model"
        case BenchOptions(soak=float()):
            timed = ("frames", "warmup", "cameras", "rate", "threads", *_OF_COMPARISON)
            yield timed, "--soak watches one camera for its minutes"
        case BenchOptions(engine=engines, sweep=sweeps):
            yield ("rate",), "it is of --delivered"
            if len(engines) == 1 and not sweeps:
                yield ("plot",), "it draws several engines, and what --sweep finds"
        case options.AblateOptions(experiment="pmp" | "omtseg" | "lmseg" as experiment):
            yield ("convolutions", "ranks"), "they are of FISA's parts, which ablate tabletop compares"
            if experiment == "pmp":
                yield ("device",), _ON_THE_CPU
        case options.AblateOptions(systems=systems):
            yield ("device",), _ON_THE_CPU
            if systems is None:
                return
            if "seve_lora" not in systems:
                yield ("ranks",), "--systems leaves seve_lora out, which alone has ranks"
            if set(systems) == {"seve_lora"}:
                yield ("convolutions",), "--systems leaves all out but seve_lora, which has the preset's"
        case DescribeOptions(backend="http"):
            yield ("device",), "--backend http computes where its server is"
        case DescribeOptions(backend="transformers"):
            yield ("url", "timeout"), "they are of --backend http"
        case DescribeOptions():
            yield ("model", "url", "timeout", "device"), "they are of --backend http and transformers"
            yield ("only_missing",), "without a language model nothing that is described is replaced"
