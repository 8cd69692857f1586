"""A picture of what `ovseg bench` measured."""

from pathlib import Path
from typing import Any

from ovseg_ros.core.errors import ConfigError

_HOW = "pip install matplotlib"


def require_matplotlib() -> None:
    """ConfigError, before minutes of work, if it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--plot needs matplotlib, which is not installed ({error}); run: {_HOW}") from error


def plot_report(report: dict[str, Any], path: Path) -> None:
    """Engines, the sweep over words and the merge against others, as far as they were measured.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    panels = [name for name in ("engines", "words", "merge") if report.get(name)]
    figure = Figure(figsize=(5 * max(1, len(panels)), 4), layout="constrained")
    for name, axes in zip(panels, figure.subplots(1, max(1, len(panels)), squeeze=False)[0], strict=False):
        if name == "engines":
            ran = [entry for entry in report["engines"] if "model_call_ms" in entry]
            bars = axes.bar(
                [f"{entry['engine']}\n{entry['precision']}" for entry in ran],
                [entry["model_call_ms"]["p50"] for entry in ran],
                yerr=[[0.0] * len(ran), [e["model_call_ms"]["p95"] - e["model_call_ms"]["p50"] for e in ran]],
            )
            axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=12)
            axes.margins(y=0.1)
            axes.set_title(f"{report['preset']}, {report['size'][0]}x{report['size'][1]}: a frame, p50 to p95")
        elif name == "words":
            axes.plot(
                [row["words"] for row in report["words"]], [r["model_call_ms"]["p50"] for r in report["words"]], "o-"
            )
            axes.set_xscale("log")
            axes.set_ylim(0, 1.25 * max(row["model_call_ms"]["p50"] for row in report["words"]))
            axes.set_xlabel("words")
            axes.set_title("a frame by the size of the vocabulary")
        else:
            for who in ("ours_ms", "theirs_ms"):
                axes.plot(
                    [row["kept"] for row in report["merge"]],
                    [row[who] for row in report["merge"]],
                    "o-",
                    label={"ours_ms": "ours", "theirs_ms": "transformers' EoMT"}[who],
                )
            axes.set_yscale("log")
            axes.set_xlabel("kept masks")
            axes.legend()
            axes.set_title("from logits to a panoptic map")
        axes.set_ylabel("milliseconds")
    figure.text(0.01, 0.01, f"{report['machine']['device']}, {report['machine']['cpu']}", fontsize=7)
    figure.savefig(path, dpi=120)
