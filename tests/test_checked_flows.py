"""Which flows can be asked of a model: by its chat template, its window and its tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import PrerequisiteError
from components.flow_cases.flow_file import FlowSet, read_flow_file
from components.flow_cases.planned_flows import planned_flow_tasks
from components.policies.policy import UseCase
from components.resolve.checked_flows import check_limits, with_flows
from components.run.artifacts import Weights
from components.run.plan import EvaluationPlan
from components.run.results import RunResults

pytestmark = pytest.mark.slow  # imports transformers

FILE = """name: ours
cases:
  - id: plain
    turns: [{user: one two three}]
    checks: [contains: a]
    sampling: {max_tokens: 8}
  - id: tools
    use_case: lookup
    tools: [{function: {name: look_up}}]
    turns: [{user: one}]
    checks: [no_tool_call: true]
    sampling: {max_tokens: 8}
  - id: long
    turns: [{user: one}, {user: two}]
    checks: [contains: a]
    sampling: {max_tokens: 500}
"""
PLAIN = "{% for message in messages %}{{ message.content }} {% endfor %}"
WITH_TOOLS = PLAIN + "{% for tool in tools or [] %}tool <tool_call>{% endfor %}"
REFUSES = "{{ raise_exception('no system role') }}"


def tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"?": 0, "one": 1, "two": 2, "three": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template)


def plan(folder: Path, **settings: object) -> EvaluationPlan:
    entry = read_flow_file(FILE, "ours.yaml").model_dump_json(exclude_defaults=True)
    values = {"variants": ("bf16",), "store": "s", "results": str(folder), "flows": (entry,)}
    return EvaluationPlan.model_validate(values | settings)


def test_flows_that_the_model_cannot_answer_are_left_out_with_the_reason(tmp_path: Path) -> None:
    checked = with_flows(plan(tmp_path), tokenizer(PLAIN), window=1000)
    assert checked.flows_left_out == {
        "ours/tools": "the model's chat template does not show tools",
        "ours/long": "it needs 1,130 tokens, and the window is 1,000",
    }
    assert checked.flows_tokens == 3 + 8 + 64
    assert checked.tool_parser == ""
    assert planned_flow_tasks(checked) == {"flows": 1, "flows:application": 1, "flows:contains": 1}
    kept = RunResults(str(tmp_path)).flows.read(FlowSet)
    assert kept is not None
    assert (kept.digest, [flow.id for flow in kept.asked]) == (checked.flows_sha256, ["ours/plain"])


def test_a_template_that_shows_tools_names_the_parser_with_which_every_variant_is_served(tmp_path: Path) -> None:
    checked = with_flows(plan(tmp_path), tokenizer(WITH_TOOLS), window=2000)
    assert (checked.tool_parser, checked.flows_left_out) == ("hermes", {})
    weights = Weights(variant="bf16", baseline_digest="0", tool_call_parser=checked.tool_parser)
    assert weights.server_options == ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    without = with_flows(plan(tmp_path, tool_call_parser="none"), tokenizer(WITH_TOOLS), window=2000)
    assert without.flows_left_out == {"ours/tools": "--tool-call-parser none leaves flows with tools out"}
    assert without.tool_parser == ""


def test_a_model_that_can_answer_none_is_an_early_error(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="None of the 3 flows.*: the model has no chat template"):
        with_flows(plan(tmp_path), tokenizer(None), window=2000)
    with pytest.raises(PrerequisiteError, match="the model's chat template refuses its messages: no system role"):
        with_flows(plan(tmp_path), tokenizer(REFUSES), window=2000)


def test_a_policy_that_limits_flows_which_are_left_out_is_an_early_error(tmp_path: Path) -> None:
    limits = UseCase.model_validate({"name": "ours", "max_drop": {"flows:lookup": 0}})
    checked = with_flows(plan(tmp_path, limits=limits), tokenizer(PLAIN), window=2000)
    with pytest.raises(PrerequisiteError, match="limits flows:lookup, and none of these flows can be asked"):
        check_limits(checked)
    check_limits(with_flows(plan(tmp_path, limits=limits), tokenizer(WITH_TOOLS), window=2000))


def test_without_flows_the_plan_stays_as_it_is(tmp_path: Path) -> None:
    assert with_flows(plan(tmp_path, flows=()), tokenizer(PLAIN), window=10) == plan(tmp_path, flows=())
    assert json.loads(plan(tmp_path, flows=()).model_dump_json())["flows_sha256"] == ""
