"""What `ovseg bench` prints."""

from typing import Any


def print_report(report: dict[str, Any]) -> None:
    """A readable table on stdout."""
    machine = report["machine"]
    width, height = report["size"]
    print(f"preset {report['preset']}, {width}x{height}, {report['categories']} categories, {report['frames']} frames")
    if report["random_weights"]:
        print("random weights: no crop is left out by what was found, so it may take longer than with its own")
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}, {machine['device']}, "
        f"torch {machine['torch']} with {machine['torch_threads']} threads"
    )
    if machine["load_average"] > machine["cores"] / 2:
        print(f"warning: the machine was busy before this run (load {machine['load_average']}); the times are too long")
    node = report["node"] or {}
    rows = [("kernels", report["kernels_ms"]), ("model call", report["model_call_ms"])]
    for name, entry in node.items():
        rows.append((f"callback to publish, {name}", entry["callback_to_publish_ms"]))
        rows.append(("  its own part (less the model in it)", entry["own_ms"]))
    for name, row in report.get("query_ms", {}).items():
        rows.append((f"query to answer, {name.replace('_', ' ')}", row))
    print(f"{'milliseconds':42}{'p50':>9}{'p95':>9}{'p99':>9}")
    for title, row in rows:
        values = [f"{row[share]:9.2f}" for share in ("p50", "p95", "p99")] if row else ["not measured: there is no GPU"]
        print(f"{title:42}{''.join(values):>27}")
    if not node:
        print(report["node_reason"])
        return
    for name, entry in node.items():
        print(f"the node's own cost over the bare model, {name}: {entry['cost_ms']:.2f} ms a frame (median)")
    if "stamp_to_subscriber" not in report:
        print("camera stamp to a subscriber in another process: not measured with random weights")
        return
    print_delivery("camera stamp to a subscriber in another process", report["stamp_to_subscriber"])


def print_delivery(title: str, entry: dict[str, Any]) -> None:
    latency = entry["latency_ms"]
    print(
        f"{title}: {entry['arrived']} of {entry['sent']} frames arrived ({entry['arrived_percent']} %) at "
        f"{entry['rate']} Hz; stamp to arrival {latency['p50']} ms p50, {latency['p95']} ms p95"
    )


def print_comparison(report: dict[str, Any]) -> None:
    """Another preset, engines, sweeps and peers, as far as they were measured, on stdout."""
    if "against" in report:
        other = report["against"]
        print(
            f"by turns: {report['preset']} {other['own_ms']['p50']} ms p50, {other['preset']} "
            f"{other['other_ms']['p50']} ms ({other['engine']}); on the same frames the first takes {other['ratio']} "
            "of the second's time"
        )
    for entry in report.get("engines", []):
        name = f"{entry['engine']}, {entry['precision']}"
        if "unavailable" in entry:
            print(f"engine {name}: not here: {entry['unavailable']}")
            continue
        call, batch, used = entry["model_call_ms"], entry["batch_ms_per_image"], entry["memory"]
        kernels = "" if entry["kernels_ms"] is None else f", kernels {entry['kernels_ms']} ms, {entry['waits']} waits"
        memory_used = f"{used.get('gpu_peak_mb', used['process_mb']):.0f} MB"
        print(
            f"engine {name}: {call['p50']} ms p50, {call['p95']} p95{kernels}; {entry['share_of_peak_percent']} % of "
            f"{entry['peak']['matmul_tflops']} TFLOP/s; 4 images at once {batch['4']} ms each; {memory_used}"
        )
    for row in report.get("words", []):
        print(f"{row['words']:>6} words: {row['model_call_ms']['p50']} ms a frame, {row['prepare_ms']} ms once")
    for row in report.get("merge", []):
        print(
            f"{row['kept']:>6} kept masks: merge {row['ours_ms']:.2f} ms; transformers' post-processing of EoMT "
            f"{row['theirs_ms']:.2f} ms, {row['theirs_ms'] / row['ours_ms']:.1f} times that; "
            f"{row['equal_percent']:.2f} % equal"
        )
    for row in report.get("peers", []):
        print(
            f"{row['model']}: ours {row['ours_ms']} ms ({row['pass_ours_ms']} without post-processing), transformers "
            f"{row['transformers_ms']} ({row['pass_transformers_ms']}); largest difference {row['error']:.1e}"
        )
