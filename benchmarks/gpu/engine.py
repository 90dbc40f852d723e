"""lm-eval's own in-process `vllm` engine on the tasks of part (c). Run it with the Python of vLLM's environment.

    PYTHON -m benchmarks.gpu.engine MODEL DATA ITEMS TASKS OUT.jsonl [VLLM_OPTIONS_AS_JSON]

It writes a line for each task: its name, the seconds, the scores. The first line has the seconds of the engine's start.
"""

import json
import sys
import time
from pathlib import Path

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.vllm_causallms import VLLM
from lm_eval.tasks import TaskManager

from benchmarks.scoring_speed import TASKS, scores_of, task_of


def main() -> None:
    """Score every task and append its line."""
    model, data, items, tasks, out, *options = sys.argv[1:]
    began = time.monotonic()
    engine = VLLM(pretrained=model, dtype="bfloat16", batch_size="auto", **json.loads(options[0] if options else "{}"))
    write(Path(out), "start", time.monotonic() - began, {})
    for name in tasks.split(","):
        task, shots, _ = TASKS[name]
        began = time.monotonic()
        outcome = simple_evaluate(
            model=engine,
            tasks=[task_of(task, Path(data), int(items))],
            num_fewshot=shots,
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
        )
        write(Path(out), name, time.monotonic() - began, scores_of(outcome["results"][task]))


def write(out: Path, name: str, took_s: float, scores: dict[str, float]) -> None:
    """Append one line."""
    with out.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"task": name, "seconds": took_s, "scores": scores}) + "\n")


if __name__ == "__main__":
    main()
