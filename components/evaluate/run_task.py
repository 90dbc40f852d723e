"""Ask a served variant the items of one task, through lm-eval."""

import random
from collections.abc import Sequence

from lm_eval.evaluator import evaluate

from components.benchmarks.harness import Prepared
from components.evaluate.endpoint import Endpoint
from components.evaluate.samples import from_sample
from components.run.records import Record

SHOTS_SEED = 1234
"""lm-eval's own."""


def ask(
    prepared: Prepared,
    items: Sequence[tuple[int, int]],
    endpoint: Endpoint,
    variant: str,
    *,
    chat_template: bool = False,
) -> list[Record]:
    """Answer these items, leaf and position of each; one record an item, in ascending order."""
    asked = []
    for number, each in enumerate(prepared.leaves):
        each.task.pick([item for leaf_number, item in items if leaf_number == number])
        if each.task.items:
            asked.append(each)
            each.task.set_fewshot_seed(SHOTS_SEED)
    random.seed(0)  # as lm-eval's own runs are
    outcome = evaluate(
        lm=endpoint,
        task_dict={"tasks": {each.name: each.task for each in asked}, "groups": {}},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )
    found = []
    for each in asked:
        samples = [one for one in outcome["samples"][each.name] if one["filter"] == prepared.row.filter]
        for sample in sorted(samples, key=lambda one: int(one["doc_id"])):
            question, choices = each.shown(sample["doc"])
            told = {"variant": variant, "question": question, "choices": choices, "cluster": each.cluster}
            if prepared.row.custom:
                told["cluster"] = str(sample["doc"].get("cluster") or "")
            found.append(from_sample(sample, prepared.row, each.task.OUTPUT_TYPE, endpoint, told))
    return found
