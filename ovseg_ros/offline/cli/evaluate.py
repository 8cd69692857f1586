"""From the options of `ovseg evaluate` to a plan."""

import os
from pathlib import Path

from ovseg_ros.offline.options import EvaluateOptions


def evaluate_as_told(told: EvaluateOptions) -> int:
    """Evaluate, or merge parts, and return the exit code."""
    from ovseg_ros.offline.evaluate.plan import Plan, Shard
    from ovseg_ros.offline.evaluate.run import evaluate, merge

    if told.merge is not None:
        return merge(
            told.merge,
            root=told.root,
            device=told.device,
            engine_folder=told.engine_folder,
            json_path=told.json,
            report=told.report,
            predictions=told.predictions,
        )
    shard = Shard.parse(told.shard) if told.shard else Shard()
    device = told.device
    if told.shard == "rank" and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    plan = Plan(
        preset=told.preset,
        data=told.data or told.name or "tabletop",
        split=told.split or "",
        images=told.images or 0,
        oracle=told.oracle or "",
        vocabulary=told.vocabulary or "",
        synonyms=told.synonyms,
        min_objectness=told.min_objectness,
        engine=told.engine,
        precision=told.precision,
        scenes={} if told.seed is None else {"seed": told.seed},
    )
    return evaluate(
        plan,
        root=told.root or told.dataset,
        device=device,
        engine_folder=told.engine_folder,
        on_error=told.on_error,
        shard=shard,
        partial=Path(told.partial.replace("{shard}", str(shard.number))) if told.partial else None,
        json_path=told.json,
        report=told.report,
        predictions=told.predictions,
    )
