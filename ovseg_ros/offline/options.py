"""What each command of `ovseg` can be told: a class of options for each, with types, defaults and meanings.

The class's docstring is the command's help. Nothing heavy is imported here, so that `ovseg --help` is immediate.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ovseg_ros.core.engine.options import ENGINES, PRECISIONS
from ovseg_ros.offline.option import Option, number, path, switch, whole, width_by_height

SPLITS = ("train", "val", "test", "captions", "train_wide", "captions_wide", "other")
"""Of the simulated tabletop; the same as `sim.scene.SPLITS`, which is not imported here."""

WORDS = 'FILE|"a,b,c"'
PRESET = "name of a preset in config/models, or the path of a preset's YAML file"


def positive(text: str, most: int = 10**9) -> Option:
    return Option(text, whole(1, most), "N")


def _seed(of: str) -> Option:
    return Option(f"seed of {of} (default: 0)", whole(0, 2**32 - 1), "N")


def _folder(text: str | None) -> Option:
    return Option(text, path, "DIR")


def _new_folder(text: str | None) -> Option:
    return Option(text, path, "DIR", output="folder")


Preset = Annotated[str, Option(PRESET)]
Device = Annotated[str, Option("auto (the first GPU, else the CPU), cpu, cuda or cuda:N")]
EngineName = Annotated[
    str, Option("what runs the model, see docs/engines.md (default: auto; of evaluate eager)", choices=ENGINES)
]
Precision = Annotated[str, Option("of weights and arithmetic (default: auto; of evaluate float32)", choices=PRECISIONS)]
EngineFolder = Annotated[Path | None, _folder("what `ovseg export` wrote (default: its usual place)")]
Json = Annotated[Path | None, Option("write the figures here", path, "FILE", output="file")]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentOptions:
    """Segment an image, a folder of images, a video or a bag."""

    input: Annotated[Path, Option(None, path, "IMAGE|FOLDER|VIDEO|BAG", by_place=True)]
    vocabulary: Annotated[str, Option("words to look for", metavar=WORDS)]
    out: Annotated[Path, _new_folder("folder for the results")]
    preset: Preset = "tabletop"
    device: Device = "auto"
    overwrite: Annotated[bool, switch("replace the results that DIR already holds")] = False
    topic: Annotated[
        tuple[str, ...] | None,
        Option("of a bag: an image topic to segment, repeated for several (default: its only one)", action="append"),
    ] = None
    no_overlay: Annotated[bool, switch("of a bag: write no pictures for people")] = False
    mask_rle: Annotated[bool, switch("of a bag: every segment's mask as COCO's RLE, too")] = False
    engine: EngineName = "auto"
    precision: Precision = "auto"
    engine_folder: EngineFolder = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """Measure panoptic quality on the simulated tabletop or on a data set."""

    preset: Preset = "tabletop"
    device: Device = "auto"
    json: Json = None
    report: Annotated[Path | None, _new_folder("write a page with tables and pictures here")] = None
    predictions: Annotated[
        Path | None, _new_folder("write the predictions here, as COCO's results and as label maps")
    ] = None

    name: Annotated[str | None, Option("the same as --data NAME", metavar="NAME", nargs="?", by_place=True)] = None
    data: Annotated[
        str | None,
        Option(
            "tabletop (the default), coco_panoptic and others, or a data set's YAML file; see docs/datasets.md",
            metavar="NAME|FILE",
            heading="what is evaluated; see docs/evaluation.md",
        ),
    ] = None
    root: Annotated[
        Path | None,
        _folder("folder of the data (default: as its file says, or in $OVSEG_DATASETS; the tabletop is rendered)"),
    ] = None
    dataset: Annotated[Path | None, _folder("the same as --data tabletop --root DIR")] = None
    split: Annotated[str | None, Option("default: test of the tabletop, val of all others")] = None
    images: Annotated[int | None, positive("only the first N (default: 300 rendered ones, or all)")] = None
    seed: Annotated[int | None, _seed("the first rendered scene")] = None
    on_error: Annotated[
        Literal["skip", "stop"], Option("at an image that cannot be read", choices=("skip", "stop"))
    ] = "skip"

    vocabulary: Annotated[
        str | None, Option("words in place of the data set's names, in the same order", metavar=WORDS, heading="how")
    ] = None
    synonyms: Annotated[bool, switch("also replace every name by one never trained on")] = False
    oracle: Annotated[
        Literal["masks", "classes"] | None,
        Option("put the true masks, or the true classes, for the model's own", choices=("masks", "classes")),
    ] = None
    min_objectness: Annotated[
        float | None,
        Option("proposals less likely than this to be any segment do not count for mask recall", number(0, 1), "P"),
    ] = None
    engine: EngineName = "eager"
    precision: Precision = "float32"
    engine_folder: EngineFolder = None

    partial: Annotated[
        str | None,
        Option(
            "keep each image's counts here; a stopped run goes on", metavar="FILE", heading="in parts", output="file"
        ),
    ] = None
    shard: Annotated[str | None, Option("evaluate only part I of N, into --partial", metavar="I/N|rank")] = None
    merge: Annotated[
        tuple[Path, ...] | None, Option("figures of all parts, from their --partial", path, "FILE", nargs="+")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSpaceOptions:
    """Measure the errors in 3D against the simulator's true poses."""

    split: Annotated[str, Option("default: test", choices=SPLITS)] = "test"
    scenes: Annotated[int, positive("number of scenes (default: 50)")] = 50
    seed: Annotated[int, _seed("the first scene")] = 0
    noise: Annotated[float, Option("depth noise at 1 m in metres (default: none)", number(0, 1), "M")] = 0.0
    json: Json = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateTrackingOptions:
    """Measure identity over time (IDF1) where camera and objects move."""

    preset: Annotated[str | None, Option(f"also track what it segments: {PRESET}")] = None
    split: Annotated[str, Option("default: test", choices=SPLITS)] = "test"
    sequences: Annotated[int, positive("number of takes (default: 10)")] = 10
    seed: Annotated[int, _seed("the first take")] = 0
    seconds: Annotated[float, Option("length of a take (default: 12)", number(0, 3600, above=True), "S")] = 12.0
    rate: Annotated[float, Option("frames per second (default: 5)", number(0, 1000, above=True), "HZ")] = 5.0
    name_votes: Annotated[
        int, positive("of --preset: names by so many votes, beside those of each frame alone (default: 9)", 1000)
    ] = 9
    device: Device = "auto"
    json: Json = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatePhrasesOptions:
    """Measure whether one phrase gets the masks that it asks for, groups as one, on the simulated tabletop."""

    preset: Preset = "tabletop_pmp"
    split: Annotated[str, Option("default: test", choices=SPLITS)] = "test"
    images: Annotated[int, positive("the first so many images (default: 100)", 100_000)] = 100
    seed: Annotated[int, _seed("the first scene")] = 0
    other_words: Annotated[bool, switch("as a control, let another phrase's words guide the masks")] = False
    device: Device = "auto"
    json: Json = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetOptions:
    """Write a data set in COCO panoptic format."""

    name: Annotated[str, Option(None, choices=["tabletop"], by_place=True)]
    split: Annotated[str, Option(None, choices=SPLITS)]
    count: Annotated[int, positive("number of images")]
    out: Annotated[Path, _new_folder(None)]
    seed: Annotated[int, _seed("the first scene")] = 0
    size: Annotated[tuple[int, int], Option("image size (default: 320x240)", width_by_height(16, 1920), "WxH")] = (
        320,
        240,
    )
    workers: Annotated[int | None, positive("rendering processes (default: one for each core)", 256)] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckDatasetOptions:
    """Say what is missing or malformed in a data set, before hours are spent on it."""

    name: Annotated[
        str,
        Option(
            "such as coco_panoptic, cityscapes_semantic or tabletop; or the path of a data set's YAML file "
            "(docs/datasets.md)",
            by_place=True,
        ),
    ]
    root: Annotated[
        Path | None, _folder("the data set's folder (default: as its file says, or in $OVSEG_DATASETS)")
    ] = None
    split: Annotated[str | None, Option("train, val or test, of the tabletop also captions (default: all)")] = None
    workers: Annotated[int | None, positive("reading processes (default: one for each core)", 256)] = None
    json: Annotated[Path | None, Option("write all that was found here", path, "FILE", output="file")] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Train by a recipe; a run that was stopped goes on.

    The same command goes on where it left off. On several GPUs: torchrun --nproc-per-node=N -m ovseg_ros.offline.cli
    train ... (docs/training.md).
    """

    recipe: Annotated[
        str, Option("name of a recipe in config/training, or the path of a recipe's YAML file", by_place=True)
    ]
    overrides: Annotated[
        tuple[str, ...],
        Option(
            "other values than the recipe's, such as loop.learning_rate=3e-4 data=coco_panoptic data.split=val; of "
            "several stages, the stage's kind comes first, as in eomt.loop.steps=100 (docs/training.md)",
            metavar="KEY=VALUE",
            nargs="*",
            by_place=True,
        ),
    ] = ()
    out: Annotated[Path | None, _new_folder("folder for checkpoints and logs; only --print-config needs none")] = None
    data: Annotated[
        Path | None,
        _folder(
            "the data set's folder (default: as its file says, or in $OVSEG_DATASETS); of the tabletop recipes, where "
            "rendered views are kept (default: OUT/data)"
        ),
    ] = None
    device: Device = "auto"
    mixed_precision: Annotated[
        Literal["no", "bf16", "fp16"] | None,
        Option("arithmetic of the networks (default: the recipe's)", choices=["no", "bf16", "fp16"]),
    ] = None
    resume: Annotated[
        str,
        Option(
            "go on from the state in OUT if there is one (auto), refuse to begin anew (require), or refuse to go on "
            "(never); default: auto",
            choices=["auto", "require", "never"],
        ),
    ] = "auto"
    steps: Annotated[int | None, positive("steps of every loop, instead of the recipe's")] = None
    accumulate: Annotated[
        int | None,
        positive("split each process's share of a batch into N parts, to save memory; the result is the same"),
    ] = None
    wandb: Annotated[
        str | None,
        Option("show losses and pictures in this project of Weights & Biases, beside TensorBoard", metavar="PROJECT"),
    ] = None
    print_config: Annotated[
        bool, switch("only print the recipe that the command would train by, with overrides and defaults, as YAML")
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadOptions:
    """Fetch and verify a preset's public weights ahead of time."""

    preset: Annotated[str, Option(PRESET, metavar="PRESET", by_place=True)]
    cache: Annotated[Path | None, _folder("folder in place of the caches HF_HUB_CACHE and TORCH_HOME")] = None
    check: Annotated[bool, switch("fetch nothing; say what is missing or damaged")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorOptions:
    """Say what is wrong with this installation, and what to do about it."""

    json: Annotated[bool, switch("for machines")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateOptions:
    """Train and compare the parts of FISA, OMTSeg or LMSeg, or ways to prompt masks; a run that was stopped goes on."""

    experiment: Annotated[
        Literal["tabletop", "pmp", "omtseg", "lmseg"],
        Option(
            "tabletop: FISA's parts; pmp: ways to let words take part in the masks; omtseg: OMTSeg's parts; lmseg: "
            "LMSeg's words, fusion and attention; all on the simulated tabletop",
            choices=("tabletop", "pmp", "omtseg", "lmseg"),
            by_place=True,
        ),
    ]
    overrides: Annotated[
        tuple[str, ...],
        Option(
            "other values than the recipe's, as of ovseg train, such as preset=runs/captions loop.learning_rate=3e-4",
            metavar="KEY=VALUE",
            nargs="*",
            by_place=True,
        ),
    ] = ()
    out: Annotated[Path, _new_folder("folder for results and training states")]
    data: Annotated[Path | None, _new_folder("folder for rendered data (default: OUT/data)")] = None
    recipe: Annotated[
        str | None,
        Option("training recipe with a stage of kind fisa, pmp, omtseg or lmseg (default: tabletop_fisa, and so on)"),
    ] = None
    device: Device = "auto"
    seeds: Annotated[int | None, positive("trainings of each system (default: 3; of pmp, omtseg and lmseg 2)")] = None
    first_seed: Annotated[int, _seed("the first training")] = 0
    systems: Annotated[
        tuple[str, ...] | None, Option("only these systems (default: all)", nargs="+", metavar="NAME")
    ] = None
    convolutions: Annotated[
        tuple[int, ...],
        Option("only these depths of the adapter (default: 2 0 1 3)", whole(0, 3), "N", nargs="+"),
    ] = (2, 0, 1, 3)
    ranks: Annotated[tuple[int, ...], Option("ranks of LoRA (default: 4 16 64)", whole(1, 1024), "R", nargs="+")] = (
        4,
        16,
        64,
    )
    split: Annotated[str, Option("evaluate on this split (default: test)", choices=SPLITS)] = "test"
    images: Annotated[int, positive("images of it (default: 100)")] = 100
    steps: Annotated[int | None, positive("of each training (default: the recipe's; of pmp 400)")] = None
