"""What a variant costs, as metrics: size, time, memory and speed.

MLflow's own system metrics are samples of the process that records a run while the run is active. Here a run is
recorded at the end, by another pod than those that did the work. So the steps measure their own peaks, and the metrics
have MLflow's prefix `system/`, by which its pages list them under "System metrics".
"""

from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.load_results import LoadTest, speed_ratios
from quantgate.components.run.verdicts import Verdict


def cost_metrics(
    verdict: Verdict, weights: Weights | None, scores: Scores | None, baseline_bytes: int
) -> dict[str, float]:
    """Size, time and throughput."""
    metrics: dict[str, float] = {}
    if verdict.size_bytes:
        metrics["size_bytes"] = verdict.size_bytes
        if baseline_bytes:
            metrics["size_ratio"] = verdict.size_bytes / baseline_bytes
    if weights and not weights.failure:
        metrics["quantize_s"] = weights.duration_s
    if scores and not scores.failure and not scores.scored_in:
        metrics["evaluate_s"] = scores.duration_s
        metrics["server_replaced"] = scores.replaced
        if scores.tokens_per_s:
            metrics["tokens_per_s"] = scores.tokens_per_s
    return metrics


def system_metrics(weights: Weights | None, scores: Scores | None) -> dict[str, float]:
    """The steps' time and memory in this run, as far as they are known; none of work that an earlier run did."""
    metrics: dict[str, float] = {}
    if weights and not weights.failure and not weights.reused:
        metrics |= {
            "system/quantize_wall_s": weights.duration_s,
            "system/quantize_peak_memory_bytes": weights.peak_memory_bytes,
            "system/quantize_peak_gpu_memory_bytes": weights.peak_gpu_memory_bytes,
        }
    if scores and not scores.failure and not scores.scored_in:
        metrics |= {
            "system/evaluate_wall_s": scores.duration_s,
            "system/server_memory_bytes": scores.server_memory_bytes,
        }
    return {name: value for name, value in metrics.items() if value or name.endswith("_wall_s")}


def speed_metrics(test: LoadTest | None, baseline: LoadTest | None) -> dict[str, float]:
    """The load test, such as `speed/16/output_tokens_per_s` with 16 requests at a time, with the ratios."""
    if test is None or test.failure:
        return {}
    metrics: dict[str, float] = {}
    for level in test.levels:
        numbers = level.model_dump(exclude={"concurrency"})
        metrics |= {f"speed/{level.concurrency}/{name}": number for name, number in numbers.items()}
    for ratio in speed_ratios(baseline, test):
        metrics[f"speed/{ratio.concurrency}/speedup"] = ratio.speedup
        metrics[f"speed/{ratio.concurrency}/first_token_ratio"] = ratio.first_token
        metrics[f"speed/{ratio.concurrency}/between_tokens_ratio"] = ratio.between_tokens
    return metrics | ({"speed/memory_bytes": test.memory_bytes} if test.memory_bytes else {})
