"""The gate's tasks of flows: all cases, the cases of each use case, and the checks of each kind.

flows                 an item a case: the share of its repeats in which every check passed
flows:USE_CASE        the same, of one use case
flows:KIND            an item a check of that kind: the share of the repeats in which it passed; the checks of one
                      case are a cluster
"""

from collections import Counter
from collections.abc import Sequence

from components.flow_cases.flow_file import Flow
from components.run.artifacts import FLOWS


def flow_tasks(flows: Sequence[Flow]) -> dict[str, int]:
    """Each task of the flows with its number of items; empty without flows."""
    if not flows:
        return {}
    by_use_case = Counter(use_case_task(flow.use_case) for flow in flows)
    by_kind = Counter(kind_task(check.kind) for flow in flows for _, check in flow.checks)
    return {FLOWS: len(flows), **by_use_case, **by_kind}


def use_case_task(use_case: str) -> str:
    """The task of a use case."""
    return f"{FLOWS}:{use_case}"


def kind_task(kind: str) -> str:
    """The task of a kind of check."""
    return f"{FLOWS}:{kind}"
