"""The flows of a run: which can be asked of this model, the parser of tool calls, and the run's own copy."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.chat_messages import messages_of, tools_of
from quantgate.components.flow_cases.flow_file import Flow
from quantgate.components.flow_cases.planned_flows import check_flows, planned_flow_tasks
from quantgate.components.flow_cases.tool_parsers import NONE, chosen_parser
from quantgate.components.judging.judging_options import named_judge
from quantgate.components.run.artifacts import Model, is_flow_task
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TEMPLATE = "the model has no chat template"
NO_TOOLS = "the model's chat template does not show tools"
NO_PARSER = f"--tool-call-parser {NONE} leaves flows with tools out"
TOKENS_OF_A_CALL = 64
"""Tokens for the marks around a tool's result."""


def check_limits(plan: EvaluationPlan) -> None:
    """Raise PrerequisiteError if the policy limits flows that all are left out."""
    if not plan.flows_left_out:
        return
    limits, tasks = plan.decided_limits, planned_flow_tasks(plan)
    lacking = [task for task in limits.required() if is_flow_task(task) and task not in tasks]
    if lacking:
        reason = next(iter(plan.flows_left_out.values()))
        raise PrerequisiteError(
            f"The policy {limits.name} limits {', '.join(lacking)}, and none of these flows can be asked of this model:"
            f" {reason}. Choose a policy without this limit, or another model."
        )


def check_judge_here(plan: EvaluationPlan, *, on_cluster: bool) -> None:
    """Raise PrerequisiteError for an incomplete judge, or one on a cluster, whose network does not reach it."""
    if named_judge(plan.judge, plan.judge_model, plan.judge_key) and on_cluster:
        raise PrerequisiteError(
            "A run on a cluster cannot ask a judge: its network policies let no step reach one, and no step has the "
            "judge's key. Leave --judge out, and decide the rubrics with `quantgate flows --judge`."
        )


def check_judge_answers(plan: EvaluationPlan, base_model: Model) -> None:
    """Raise PrerequisiteError when the plan's judge does not answer, refuses its key, or is the base model."""
    options = named_judge(plan.judge, plan.judge_model, plan.judge_key)
    if options is None:
        return
    from quantgate.components.judging.judge_endpoint import Judge
    from quantgate.components.judging.judge_identity import ServedModel
    from quantgate.components.judging.kept_lines import KeptLines

    with tempfile.TemporaryDirectory() as scratch:
        base = ServedModel(base_model.source.partition(":")[2], digest=base_model.digest)
        Judge(options, [("the base model", base)], KeptLines(Path(scratch) / "none"))


def with_flows(plan: EvaluationPlan, tokenizer: "PreTrainedTokenizerBase", window: int) -> EvaluationPlan:
    """The plan with the run's own copy of its flows, and why some cannot be asked of this model.

    `window` is the most tokens that the model can have. Raises PrerequisiteError when none can be asked.
    """
    if not plan.flows:
        return plan
    flows = check_flows(plan)
    checked, parser = refused_flows(flows.flows, tokenizer, plan.tool_call_parser, plan.max_model_len or window)
    if all(flow.refused for flow in checked):
        raise PrerequisiteError(f"None of the {len(checked)} flows can be asked of this model: {checked[0].refused}.")
    kept = flows.model_copy(update={"flows": tuple(checked)})
    return plan.model_copy(
        update={
            "flows_kept": RunResults(plan.results).flows.write(kept),
            "flows_sha256": kept.digest,
            "flows_left_out": {flow.id: flow.refused for flow in checked if flow.refused},
            "flows_notes": kept.notes,
            "flows_tokens": max(tokens_of(flow, tokenizer) for flow in kept.asked),
            "tool_parser": parser if any(flow.needs_tools for flow in kept.asked) else "",
        }
    )


def refused_flows(
    flows: Sequence[Flow], tokenizer: "PreTrainedTokenizerBase", option: str, window: int
) -> tuple[list[Flow], str]:
    """The flows, each with the reason why it cannot be asked of the model; and the parser of tool calls."""
    template = str(tokenizer.get_chat_template(tools=[]) if tokenizer.chat_template else "")
    with_tools = [flow for flow in flows if flow.needs_tools]
    shows_tools = bool(template) and bool(with_tools) and renders_tools(with_tools, tokenizer)
    parser = chosen_parser(option, template, len(with_tools)) if shows_tools else ""

    def reason(flow: Flow) -> str:
        if not template:
            return NO_TEMPLATE
        if flow.needs_tools and not shows_tools:
            return NO_TOOLS
        if flow.needs_tools and not parser:
            return NO_PARSER
        try:
            needed = tokens_of(flow, tokenizer)
        except PrerequisiteError as error:
            return str(error)
        return f"it needs {needed:,} tokens, and the window is {window:,}" if needed > window else ""

    return [flow.model_copy(update={"refused": reason(flow)}) for flow in flows], parser


def renders_tools(flows: Sequence[Flow], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template shows the model the tools of a flow."""
    flow = next((flow for flow in flows if flow.tools), None)
    if flow is None:
        return True
    return rendered(flow, tokenizer, tools=tools_of(flow)) != rendered(flow, tokenizer, tools=None)


def rendered(flow: Flow, tokenizer: "PreTrainedTokenizerBase", tools: list[dict[str, Any]] | None) -> str:
    """The whole conversation as text, with empty answers; raises PrerequisiteError if the template refuses it."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages_of(flow), tools=list(tools) if tools else None, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise PrerequisiteError(f"the model's chat template refuses its messages: {error}") from error
    return str(text)


def tokens_of(flow: Flow, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The tokens of the whole conversation with answers of the greatest length."""
    text = rendered(flow, tokenizer, tools=tools_of(flow) or None)
    results = "".join(result for turn in flow.turns for result in turn.returns.values())
    asked = sum(1 + bool(turn.returns) for turn in flow.turns if turn.assistant is None)
    tokens = len(tokenizer.encode(text, add_special_tokens=False)) + len(tokenizer.encode(results))
    return tokens + asked * (flow.sampling.max_tokens + TOKENS_OF_A_CALL)
