"""Which engine and which precision a segmenter is run with: what is asked for, or the fastest that agrees here."""

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from ovseg_ros.core.engine.agreement import LEAST_EQUAL, MOST_LOGIT_ERROR, Agreement, Sight, agreement
from ovseg_ros.core.engine.available import obstacle, remedy
from ovseg_ros.core.engine.buckets import Bucketed
from ovseg_ros.core.engine.compiled import compiled
from ovseg_ros.core.engine.fallback import Fallback, shortened
from ovseg_ros.core.engine.graphs import CudaGraphs
from ovseg_ros.core.engine.manifest import fits, read_manifest, usual_folder
from ovseg_ros.core.engine.options import REFERENCE, Engine, EngineOptions
from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.engine.precision import DTYPES, store
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.self_check import look

Build = Callable[[], PanopticSegmenter]
Tell = Callable[[str], None]

_EAGER, _FLOAT32 = REFERENCE.engine, REFERENCE.precision
_EXPORTED = ("onnx", "tensorrt")


def started(build: Build, preset: str, options: EngineOptions, tell: Tell) -> PanopticSegmenter:
    """A segmenter whose parts are run as the options say; its `engine` says what that came to.

    All but float32 by PyTorch's eager mode, the reference, is first compared with that on bundled images.

    Args:
        build: makes it, in float32; called anew where its weights were converted in vain.
        preset: what it is built of, for exports.
        options: "auto" takes the first engine that works and agrees, in the first such precision; an engine that fails
            later is replaced by the next.
        tell: told when an engine fails and another takes its place.

    Raises:
        ConfigError: what was asked for by name is not there, fails or does not agree.
    """
    return _Trials(build, preset, options, tell).run()


def installed(segmenter: PanopticSegmenter, preset: str, options: EngineOptions) -> PanopticSegmenter:
    """As `started`, of a segmenter in float32 whose outputs mean nothing, so that nothing is compared.

    "auto" is the first engine that may be here, and float32 on a CPU, else float16.
    """
    return _Trials(lambda: segmenter, preset, options, warnings.warn).install_unchecked()


class _Trials:
    """Tries what may run a segmenter, the fastest first."""

    def __init__(self, build: Build, preset: str, options: EngineOptions, tell: Tell) -> None:
        self._build, self._preset, self._options, self._tell = build, preset, options, tell
        self._random = torch.get_rng_state()  # what no checkpoint fills is the same when it is built again
        self._segmenter, self._dtype = build(), torch.float32
        self._reasons: list[str] = []
        """Why it is not what would have been taken before."""
        self._failures: list[str] = []
        """Those of the reasons that nobody would expect."""
        self._size: tuple[int, int] | None = None
        """(width, height) of the images to compare; None for their own."""

    def run(self) -> PanopticSegmenter:
        """See `started`."""
        reference: list[Sight] = []
        engines = self._engines()
        for place, engine in enumerate(engines):
            for precision in self._precisions(engine):
                if (engine, precision) == (_EAGER, _FLOAT32):
                    self._become(torch.float32)
                    return self._with(engine, precision, "the reference itself")
                reference = reference or look(self._segmenter, self._size)
                begun = time.perf_counter()
                agreed = self._try(engines[place:], precision, reference)
                if agreed is not None:
                    seconds = time.perf_counter() - begun
                    return self._with(self._main_engine(engine), precision, f"warm-up {seconds:.1f} s, check {agreed}")
        raise ConfigError(
            f"engine {self._options.engine} in precision {self._options.precision} does not do for this preset on "
            f"{self._segmenter.device}: {'; '.join(self._reasons)}; of float32's pixels {LEAST_EQUAL:.1%} must stay "
            f"and mask logits be within {MOST_LOGIT_ERROR}; take precision float32 or engine eager, or auto for either"
        )

    def install_unchecked(self) -> PanopticSegmenter:
        """See `installed`."""
        engine = self._engines()[0]
        precision = self._precisions(engine)[0]
        self._become(DTYPES[precision])
        self._install((engine,))
        for part in self._segmenter.model.parts:
            if isinstance(part.run, Fallback):
                part.run.is_checking = False
        return self._with(engine, precision, "not checked")

    def _engines(self) -> tuple[str, ...]:
        """Those that may be here, in the order of trial."""
        device, named = self._segmenter.device, self._options.engine
        if named == _EAGER:
            return (_EAGER,)
        if named != "auto":
            if lacking := obstacle(named, device):
                raise ConfigError(f"engine {named} cannot run on {device}: {lacking}; {remedy(named)}")
            if not self._segmenter.model.parts:
                raise ConfigError(f"engine {named} runs parts of a model, and this model has none; take engine eager")
            return (named,)
        if not self._segmenter.model.parts:
            return (_EAGER,)
        if device.type != "cuda":
            is_meant = self._options.folder is not None or self._exports.is_dir()
            return ("onnx", _EAGER) if is_meant else (_EAGER,)
        if lacking := obstacle("compile", device):
            self._reasons.append(lacking)
            return ("cuda_graph", _EAGER)
        return ("compile", "cuda_graph", _EAGER)

    def _precisions(self, engine: str) -> tuple[str, ...]:
        """In the order of trial; none where an export does not fit and none was asked for."""
        asked = self._options.precision
        is_named = engine == self._options.engine
        if asked == "auto" and self._segmenter.device.type == "cpu" and not (is_named and engine in _EXPORTED):
            asked = _FLOAT32
        if engine not in _EXPORTED:
            return ("float16", "bfloat16", _FLOAT32) if asked == "auto" else (asked,)
        try:
            exported = self._exported_precision()
            if asked not in ("auto", exported):
                raise ConfigError(
                    f"the export in {self._exports} is of precision {exported}, not {asked}; export it again with "
                    f"--precision {asked}, or take precision {exported}"
                )
        except ConfigError as error:
            if self._options.engine != "auto":
                raise
            self._fail(engine, str(error))
            return ()
        return (exported,)

    @property
    def _exports(self) -> Path:
        return self._options.folder or usual_folder(self._preset)

    def _exported_precision(self) -> str:
        """ConfigError unless what is exported is of this preset and can be run here."""
        manifest = read_manifest(self._exports, self._preset)
        if fault := fits(manifest, self._preset):
            raise ConfigError(fault)
        self._size = manifest.sizes[0]
        return manifest.precision

    def _try(self, engines: tuple[str, ...], precision: str, reference: list[Sight]) -> Agreement | None:
        """How near the first engine comes, the others behind it; None, with the reason noted, if not near enough."""
        what = f"{engines[0]} in {precision}"
        self._become(DTYPES[precision])
        try:
            self._install(engines)
            found = agreement(look(self._segmenter, self._size), reference)
        except Exception as error:  # whatever an engine, or a model in this precision, raises
            if isinstance(error, ConfigError) and self._options.engine != "auto":
                raise
            self._fail(what, shortened(error))
            return None
        if not found.is_enough:
            self._note(what, str(found))
            return None
        for part in self._segmenter.model.parts:
            if isinstance(part.run, Fallback):
                part.run.is_checking = False
        return found

    def _note(self, what: str, reason: str) -> None:
        self._reasons.append(f"{what}: {reason}")

    def _fail(self, what: str, reason: str) -> None:
        """Notes what should have worked."""
        self._note(what, reason)
        self._failures.append(f"{what} failed: {reason}")

    def _become(self, dtype: torch.dtype) -> None:
        """The segmenter, eager, with weights of a type; built again if they have lost what this type can hold."""
        if self._dtype not in (torch.float32, dtype):
            del self._segmenter  # first, as there may be no room for two
            gc.collect()  # since engines refer back to their parts
            with torch.random.fork_rng(devices=()):
                torch.set_rng_state(self._random)
                self._segmenter = self._build()
            self._dtype = torch.float32
        if dtype != self._dtype:
            model = self._segmenter.model
            store(model, dtype)
            if model.text_encoder is not None:
                model.text_encoder.store(dtype)
            self._dtype = dtype
        for part in self._segmenter.model.parts:
            part.dtype, part.run = dtype, part.module

    def _install(self, engines: tuple[str, ...]) -> None:
        """Lets the first engine run all parts, and under "auto" the others those that it fails at."""
        parts = self._segmenter.model.parts
        by_engine = {engine: self._runs(engine, parts) for engine in engines if engine != _EAGER}
        for part in parts:
            runs = [(engine, by_part[part.name]) for engine, by_part in by_engine.items()]
            if self._options.engine != "auto":
                part.run = runs[0][1] if runs else part.module
            elif runs:
                part.run = Fallback(part, runs, self._tell)

    def _runs(self, engine: str, parts: tuple[Part, ...]) -> dict[str, Run]:
        on_gpu = self._segmenter.device.type == "cuda"
        match engine:
            case "compile" if on_gpu:
                return {part.name: Bucketed(part, CudaGraphs(compiled(part))) for part in parts}
            case "compile":
                return {part.name: compiled(part) for part in parts}
            case "cuda_graph":
                return {part.name: Bucketed(part, CudaGraphs(part.module)) for part in parts}
            case _:
                from ovseg_ros.core.engine.onnx_runs import load_runs  # needs what not everybody has installed

                is_tensorrt, threads = engine == "tensorrt", self._options.threads
                return load_runs(self._exports, parts, self._segmenter.device, tensorrt=is_tensorrt, threads=threads)

    def _main_engine(self, tried: str) -> str:
        """What runs most parts; the others are noted."""
        found = {part.name: part.run.engine for part in self._segmenter.model.parts if isinstance(part.run, Fallback)}
        if not found:
            return tried
        [(most, _)] = Counter(found.values()).most_common(1)
        self._reasons += [f"{name} by {engine}" for name, engine in found.items() if engine != most]
        return most

    def _with(self, engine: str, precision: str, checked: str) -> PanopticSegmenter:
        if self._failures:
            self._tell(f"{'; '.join(self._failures)}; {engine} in {precision} runs this preset")
        why = f" ({'; '.join(self._reasons)})" if self._reasons else ""
        line = f"engine {engine}, {precision}{why}: {checked}"
        self._segmenter.engine = Engine(engine, precision, line, self._size if engine in _EXPORTED else None)
        return self._segmenter
