"""Records and IRT parameters for tests of the items that tinyBenchmarks chose."""

import numpy as np

from quantgate.components.benchmarks.anchors import anchored_benchmarks
from quantgate.components.benchmarks.irt import Parameters
from quantgate.components.run.records import Record


def record(item: int, score: float, cluster: str = "") -> Record:
    """A record of one item."""
    return Record(
        variant="int8",
        task="mmlu",
        item_id=item,
        item_hash=str(item),
        metric="acc",
        score=score,
        target=0,
        logliks=[],
        greedy=[],
        prompt_hash="",
        tokens=1,
        truncated=False,
        question="",
        choices=(),
        cluster=cluster,
    )


def fitted(task: str, items: int | None = None) -> Parameters:
    """Parameters for the task's anchors."""
    benchmark = anchored_benchmarks()[task]
    items = items or benchmark.items
    return Parameters(
        discrimination=np.ones((2, items)),
        difficulty=np.zeros(items),
        anchors=np.array(benchmark.anchors),
        anchor_weights=np.full(100, 0.01),
        balance=np.ones(items),
        anchor_share=0.5,
    )
