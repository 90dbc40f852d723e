import json

import pytest

from quantgate.components.policies.policy import parse_use_case
from quantgate.components.report.formats import duration_text, percent_text, size_text
from quantgate.components.report.stated_limits import StatedLimit, bounds, stated_limits


def test_a_percentage_never_contradicts_the_bound_it_was_compared_with() -> None:
    assert percent_text(0.026) == "2.6 %"
    assert percent_text(-0.004) == "−0.4 %"
    assert percent_text(0.0) == "0.0 %"
    assert percent_text(None) == "—"
    assert percent_text(0.00996) == "1.0 %"
    assert percent_text(0.00996, (0.01,)) == "0.996 %"
    assert percent_text(0.0004) == "0.04 %"


def test_sizes_and_durations_are_never_rounded_to_nothing() -> None:
    assert [size_text(size) for size in (6_400_000_000, 269_060_552, 1_234_567, 20_000, None)] == [
        *("6,400 MB", "269 MB", "1.2 MB", "0.02 MB", "—"),
    ]
    assert [duration_text(seconds) for seconds in (0.31, 37.2, 119.6, 200, 7500)] == [
        *("0.3 s", "37 s", "2 min 0 s", "3 min 20 s", "2 h 5 min"),
    ]


def test_the_drawn_limits_are_the_policys_values() -> None:
    policy = parse_use_case("name: math\nmax_drop: {gsm8k: 2.5 %}\nmax_average_drop: 4 %\n", "policy.yaml")
    assert stated_limits(policy) == (
        StatedLimit("ship", "under 1 %", 0.01),
        StatedLimit("monitor", "under 3 %", 0.03),
        StatedLimit("A/B test", "to 5 %", 0.05),
        StatedLimit("gsm8k", "at most 2.5 %", 0.025, task="gsm8k"),
        StatedLimit("average", "at most 4 %", 0.04),
    )
    assert bounds(policy, ["gsm8k", "mmlu"]) == {"average": (0.01, 0.03, 0.05, 0.04), "gsm8k": (0.025,), "mmlu": ()}


@pytest.mark.parametrize("task", ["how-to", "a: b, c", "ship", "at most 3 %"])
def test_a_task_keeps_its_limit_whatever_its_name(task: str) -> None:
    policy = parse_use_case(json.dumps({"name": "mine", "max_drop": {task: "2 %"}}), "policy.yaml")
    assert bounds(policy, [task])[task] == (0.02,)
    assert bounds(policy, [task])["average"] == policy.edges
    assert policy.model_validate_json(policy.model_dump_json()) == policy, "it travels as a value in the plan"
