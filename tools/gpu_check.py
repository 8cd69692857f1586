"""make gpu-check: whether this machine's GPU gives what a CPU gives, and then how fast; one report.

The tests marked gpu first. Then `ovseg bench` on the models that goals are set for, with random weights, which are as
fast as trained ones and need no download. Nothing here is a verdict of `make test`: a goal that is missed is said, not
raised.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).parent.parent
ENGINES = ("compile", "cuda_graph", "eager", "eager:float32")


@dataclass(frozen=True)
class Goal:
    """A figure to reach on an H100 or H200.

    Attributes:
        preset: a name, or a preset in this file's own folder of presets.
        text: what is asked for.
        most: milliseconds.
    """

    preset: str
    text: str
    most: float


GOALS = (
    Goal("large", "EoMT-L at 640 and FISA on CLIP-L at 560, 150 words: a frame", 8.5),
    Goal("base", "EoMT-B at 640 and CLIP ViT-B/16: a frame (200 a second)", 5.0),
)
CALLBACK_TO_PUBLISH = 10.0
SPEED_UP = 8.0


def main() -> int:
    """Run, write DIR/report.json and DIR/report.md; 1 where a test failed or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu-check")
    parser.add_argument("--frames", type=int, default=200, help="timed frames of each engine (on a CPU: 5)")
    parser.add_argument("--device", default="cuda", help="cpu tries the command itself, on the bundled preset alone")
    told = parser.parse_args()
    if told.device != "cpu" and not torch.cuda.is_available():
        print("make gpu-check: PyTorch sees no CUDA device here; look with: ovseg doctor", file=sys.stderr)
        return 1
    if told.device == "cpu":
        told.frames = min(told.frames, 5)
    told.out.mkdir(parents=True, exist_ok=True)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "test", f"--junit-xml={told.out / 'tests.xml'}"], cwd=ROOT
    ).returncode
    said = "skipped, as there is no GPU" if told.device == "cpu" else "passed"
    report: dict[str, Any] = {"tests": said if tests == 0 else f"pytest ended with {tests}", "presets": {}}
    for name, preset in presets(told.out, told.device).items():
        report["presets"][name] = bench(name, preset, told)
    report["goals"] = goals(report["presets"])
    (told.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (told.out / "report.md").write_text(as_text(report), encoding="utf-8")
    print(as_text(report))
    return int(tests not in (0, 5))  # 5: nothing was selected


def presets(out: Path, device: str) -> dict[str, str]:
    """By name: what is measured."""
    if device == "cpu":
        return {"tabletop": "tabletop"}
    return {
        "large": write_preset(out / "large.yaml", "fisa_l", {"input_size": 560}),
        "base": "eomt_b_vit_b",
        "default": "eomt_l_convnext",
        "tabletop": "tabletop",
    }


def write_preset(path: Path, preset: str, architecture: dict[str, Any]) -> str:
    """A preset with another FISA."""
    content = yaml.safe_load((ROOT / "config" / "models" / f"{preset}.yaml").read_text(encoding="utf-8"))
    content["model"]["classifier"].setdefault("architecture", {}).update(architecture)
    content["model"]["classifier"].pop("checkpoint", None)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def bench(name: str, preset: str, told: argparse.Namespace) -> dict[str, Any]:
    """What `ovseg bench` says of a preset; its reason where it failed."""
    figures = told.out / f"{name}.json"
    engines = ENGINES if told.device != "cpu" else ("eager", "onnx")
    command = [
        *(sys.executable, "-m", "ovseg_ros.offline.cli", "bench", "--preset", preset, "--device", told.device),
        *("--engine", ",".join(engines), "--precision", "float16" if told.device != "cpu" else "float32"),
        *("--frames", str(told.frames), "--warmup", str(min(20, told.frames))),
        *("--vocabulary", "ade20k_150"),
        *("--json", str(figures), "--plot", str(told.out / f"{name}.png")),
        *(["--random-weights"] if preset != "tabletop" else ["--sweep", "--peers"]),
    ]
    done = subprocess.run(command, cwd=told.out, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return json.loads(figures.read_text(encoding="utf-8"))


def goals(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for and what came of it; a goal whose preset was not measured is left out."""
    rows = []
    for goal in GOALS:
        engines = [entry for entry in measured.get(goal.preset, {}).get("engines", []) if "model_call_ms" in entry]
        if engines:
            best = min(entry["model_call_ms"]["p50"] for entry in engines)
            rows.append({"goal": goal.text, "wanted": goal.most, "measured": best, "reached": best <= goal.most})
            slowest = [
                e["model_call_ms"]["p50"] for e in engines if (e["engine"], e["precision"]) == ("eager", "float32")
            ]
            if slowest:
                rows.append(
                    {
                        "goal": f"times as fast as eager float32, {goal.preset}",
                        "wanted": SPEED_UP,
                        "measured": round(slowest[0] / best, 2),
                        "reached": slowest[0] / best >= SPEED_UP,
                    }
                )
        for title, entry in (measured.get(goal.preset, {}).get("node") or {}).items():
            p50 = entry["callback_to_publish_ms"]["p50"]
            text = f"callback to publish, {goal.preset}, {title}"
            rows.append(
                {"goal": text, "wanted": CALLBACK_TO_PUBLISH, "measured": p50, "reached": p50 <= CALLBACK_TO_PUBLISH}
            )
    return rows


def as_text(report: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["# GPU check", "", f"Tests marked gpu: {report['tests']}.", ""]
    lines += ["| goal | wanted | measured | |", "|---|---|---|---|"]
    for row in report["goals"]:
        lines.append(f"| {row['goal']} | {row['wanted']} | {row['measured']} | {'yes' if row['reached'] else 'no'} |")
    for name, figures in report["presets"].items():
        lines += ["", f"## {name}", ""]
        if "failed" in figures:
            lines.append(f"failed: {' '.join(figures['failed'])}")
            continue
        lines.append(f"{figures['machine']['device']}, PyTorch {figures['machine']['torch']}")
        lines += [
            "",
            "| engine | p50 ms | p95 | kernels ms | waits | % of peak | MB |",
            "|---|---|---|---|---|---|---|",
        ]
        for entry in figures.get("engines", []):
            if "unavailable" in entry:
                lines.append(f"| {entry['engine']} | {entry['unavailable']} | | | | | |")
                continue
            call, used = entry["model_call_ms"], entry["memory"]
            lines.append(
                f"| {entry['engine']}, {entry['precision']} | {call['p50']} | {call['p95']} | {entry['kernels_ms']} | "
                f"{entry['waits']} | {entry['share_of_peak_percent']} | {used.get('gpu_peak_mb', used['process_mb'])} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
