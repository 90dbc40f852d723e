"""The items that tinyBenchmarks chose of each of six benchmarks, its anchors, as positions in the benchmark's rows.

F. Maia Polo et al., "tinyBenchmarks: evaluating LLMs with fewer examples", arXiv:2402.14992. anchors.json lists the
positions from 0, in the order of tinyBenchmarks' own rows. MMLU's rows are those of all subjects, in the subjects'
alphabetical order. ARC and TruthfulQA name one item twice: it is asked once, and its score counts twice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError

if TYPE_CHECKING:
    from quantgate.components.benchmarks.irt import Parameters
    from quantgate.components.run.records import Record

FILE = Path(__file__).with_name("anchors.json")


@dataclass(frozen=True)
class AnchoredBenchmark:
    """One benchmark of which tinyBenchmarks chose 100 items."""

    tiny: str
    """lm-eval's task of the chosen items alone."""
    items: int
    """The number of items of the whole benchmark."""
    anchors: tuple[int, ...]
    """(100,): the positions of the chosen items in the whole benchmark, in the order of the tiny task's rows."""


@cache
def anchored_benchmarks() -> dict[str, AnchoredBenchmark]:
    """The benchmarks with anchors, by lm-eval's name of the whole benchmark."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        task: AnchoredBenchmark(row["tiny"], row["items"], tuple(row["anchors"]))
        for task, row in content["benchmarks"].items()
    }


def anchors_of(task: str) -> tuple[int, ...]:
    """The anchors of a whole benchmark."""
    return anchored_benchmarks()[task].anchors


def anchor_scores(anchors: Sequence[int], records: "Sequence[Record]") -> list[float]:
    """The scores (100,) in the anchors' order, from one record of each item; raises ValueError for other records.

    Subjects and positions sort like the positions in the whole benchmark, so the records need no positions of it.
    """
    answered = sorted(records, key=lambda record: (record.cluster, record.item_id))
    item_scores = [record.score for record in answered if record.score is not None]
    score_at = dict(zip(sorted(set(anchors)), item_scores, strict=True))
    return [score_at[anchor] for anchor in anchors]


def check_parameters(task: str, parameters: "Mapping[str, Parameters]") -> None:
    """Raise PrerequisiteError when the IRT parameters were fitted for other items than the task's anchors."""
    benchmark = anchored_benchmarks()[task]
    fitted = parameters[benchmark.tiny]
    pairs = zip(fitted.anchors.tolist(), benchmark.anchors, strict=True)
    differing = sum(theirs != ours for theirs, ours in pairs)
    items = fitted.discrimination.shape[1]
    if differing or items != benchmark.items:
        raise PrerequisiteError(
            f"The IRT parameters are for other items of {task}: {differing} of the {len(benchmark.anchors)} anchors"
            f" differ, and they are of {items:,} items, not of {benchmark.items:,}. Leave --irt-parameters out."
        )
