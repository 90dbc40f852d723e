"""What a verdict was reached by, as sha256 digests: policy, plan, weights, records, and the verdicts themselves.

The digests of policy, plan and outcome are those of their JSON in the decision's file, with sorted keys and every
number as a float. They are taken from the file and not from its parsed values: a later version of quantgate, whose
values have further fields, computes the same digests of the same file.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from quantgate.components.policies.policy import UseCase
from quantgate.components.storage.artifact import Artifact

NOT_DECIDING = (
    *("suite_kept", "custom", "custom_kept", "data", "prompts", "made_rows", "irt_parameters", "irt_parameters_kept"),
    *(
        "store",
        "results",
        "variant",
        "variant_kept",
        "tracking_uri",
        "experiment",
        "skip_judged",
        "judged_in",
        "fail_run_on",
    ),
    *("calibration", "calibration_also"),  # `calibration_set` and `calibration_sets_also` identify the texts
    "check_power",
    "started_at",
    *("flows_kept", "judge_key"),
)
"""The fields of a plan that name a place, or what happens after the verdict. `asked` identifies the questions."""
APART = ("limits", "plan", "digests", "judged_in")
"""The fields of a decision that are not part of the outcome."""


class Digests(Artifact):
    """The digests of one decision."""

    policy: str
    """Of the limits that decided."""
    plan: str
    """Of the evaluation plan, without its places."""
    baseline: str
    """The base model's."""
    weights: dict[str, str]
    """By variant; empty for weights that could not be made."""
    records: dict[str, str]
    """By variant, of the bytes of the file with its per-item records."""
    again: str = ""
    """Of the records of the baseline's second pass; empty without one."""
    outcome: str
    """Of the rest of the decision: model, verdicts, scores."""

    @property
    def combined(self) -> str:
        """One digest of them all."""
        return _digest(self.model_dump())


def digests_of(decision: str, records: Mapping[str, str], again: str = "") -> Digests:
    """The digests of a decision, given as the text of its file; `records` and `again` are sha256 values."""
    content = json.loads(decision, parse_int=float)
    plan = content["plan"] or {}
    return Digests(
        policy=_digest(content["limits"]),
        plan=_digest({name: value for name, value in plan.items() if name not in NOT_DECIDING}),
        baseline=content["model"]["digest"],
        weights={row["variant"]: row["digest"] for row in content["weights"]},
        records=dict(records),
        again=again,
        outcome=_digest({name: value for name, value in content.items() if name not in APART}),
    )


def policy_digest(limits: UseCase) -> str:
    """The digest of the limits that decide."""
    return _digest(json.loads(limits.model_dump_json(), parse_int=float))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
