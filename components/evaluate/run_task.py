"""Run the items of one task on a served variant, through lm-eval."""

import random
from collections.abc import Sequence

from lm_eval.evaluator import evaluate

from components.benchmarks.harness import Prepared
from components.evaluate.endpoint import Endpoint
from components.evaluate.samples import from_sample
from components.run.records import Record

SHOTS_SEED = 1234
"""The seed of lm-eval's own runs."""


def ask(
    prepared: Prepared,
    items: Sequence[tuple[int, int]],
    endpoint: Endpoint,
    variant: str,
    *,
    chat_template: bool = False,
) -> list[Record]:
    """The records of these items, one an item, in ascending order; `items` are pairs of leaf number and position."""
    leaves = []
    for number, leaf in enumerate(prepared.leaves):
        leaf.task.pick([item for leaf_number, item in items if leaf_number == number])
        if leaf.task.items:
            leaves.append(leaf)
            leaf.task.set_fewshot_seed(SHOTS_SEED)
    random.seed(0)  # lm-eval's own runs have this seed
    outcome = evaluate(
        lm=endpoint,
        task_dict={"tasks": {leaf.name: leaf.task for leaf in leaves}, "groups": {}},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )
    records = []
    for leaf in leaves:
        samples = [sample for sample in outcome["samples"][leaf.name] if sample["filter"] == prepared.row.filter]
        for sample in sorted(samples, key=lambda logged: int(logged["doc_id"])):
            question, choices = leaf.shown(sample["doc"])
            fields = {"variant": variant, "question": question, "choices": choices, "cluster": leaf.cluster}
            if prepared.row.custom:
                fields["cluster"] = str(sample["doc"].get("cluster") or "")
            records.append(from_sample(sample, prepared.row, leaf.task.OUTPUT_TYPE, endpoint, fields))
    return records
