"""The checks of each answer, and the records and scores that the gate reads."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from quantgate.components.benchmarks.task_score import lengths_of
from quantgate.components.flow_cases.answer_checks import fault_of
from quantgate.components.flow_cases.exchanges import CheckOutcome, FlowExchange
from quantgate.components.flow_cases.flow_checks import RUBRIC, FlowCheck
from quantgate.components.flow_cases.flow_file import Flow, FlowSet
from quantgate.components.flow_cases.flow_tasks import flow_tasks, kind_task, use_case_task
from quantgate.components.run.artifacts import FLOWS, TaskScore
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.records import Record

SHOWN = 1000
"""Characters of a question and of an answer in a record, for a reader; the transcript has everything."""
METRIC = "passed"
Judge = Callable[[Flow, FlowExchange, int, FlowCheck], tuple[bool | None, str]]
"""Decides a rubric for the answer to one turn: whether it passes (None: no usable verdict), and why."""


def checked(flow: Flow, exchange: FlowExchange, judge: Judge | None = None) -> FlowExchange:
    """The exchange with the outcome of each check; raises PrerequisiteError for a check that takes too long."""
    outcomes = []
    for number, (turn, check) in enumerate(flow.checks):
        if check.kind == RUBRIC:
            if judge is None:
                raise ValueError(f"{flow.id} has a rubric and there is no judge: `resolve` refuses that")
            passed, reason = judge(flow, exchange, turn, check)
        else:
            reason = fault_of(check, exchange.answers[turn].given())
            passed = not reason
        outcomes.append(
            CheckOutcome(
                turn=turn, number=number, kind=check.kind, check=check.describe(), passed=passed, reason=reason
            )
        )
    return exchange.model_copy(update={"checks": tuple(outcomes)})


@dataclass(frozen=True)
class CheckedFlow:
    """One flow with all its repeats."""

    position: int
    """Among all flows of the run, those that are left out included."""
    flow: Flow
    exchanges: Sequence[FlowExchange]

    def record(self, variant: str, task: str, exchanges_passed: Sequence[bool], number: int | None) -> Record:
        """The record of the whole case, or of the check of that number."""
        shown = self.exchanges[next((at for at, passed in enumerate(exchanges_passed) if not passed), 0)]
        outcomes = [check for check in shown.checks if number is None or check.number == number]
        failed = [check for check in outcomes if check.passed is False]
        turn = failed[0].turn if failed else max(shown.answers)
        answered = [answer for exchange in self.exchanges for answer in exchange.answers.values()]
        tokens = [answer.tokens for answer in answered if answer.tokens is not None]
        kinds = [check.kind for _, check in self.flow.checks]
        in_cluster = number is not None and kinds.count(self.flow.checks[number][1].kind) > 1
        reasons = "; ".join(f"{check.check}: {check.reason}" for check in failed)
        return Record(
            variant=variant,
            task=task,
            cluster=self.flow.id if in_cluster else "",
            item_id=number if in_cluster and number is not None else self.position,
            item_hash=self.flow.digest[:16],
            metric=METRIC,
            score=fmean(map(float, exchanges_passed)),
            target=-1,
            logliks=[],
            greedy=[],
            prompt_hash=self.flow.prompt_digest,
            tokens=0,
            truncated=False,
            question=f"{self.flow.id}: {self.flow.turns[turn].user}"[:SHOWN],
            answer=shown.answers[turn].describe()[:SHOWN],
            cut=any(answer.cut for answer in answered),
            answer_tokens=sum(tokens) if len(tokens) == len(answered) else None,
            answer_limit=len(answered) * self.flow.sampling.max_tokens,
            outcome=reasons,
        )


def records_of(variant: str, flows: FlowSet, exchanges: Sequence[FlowExchange]) -> list[Record]:
    """The records of all tasks of the flows: of each case, and of each check.

    A check without a score, which only a judge leaves, has no record, nor has its case.
    """
    by_flow: dict[str, list[FlowExchange]] = {}
    for exchange in sorted(exchanges, key=lambda exchange: exchange.repeat):
        by_flow.setdefault(exchange.flow, []).append(exchange)
    return [
        record
        for position, flow in enumerate(flows.flows)
        if not flow.refused
        for record in _records(variant, CheckedFlow(position, flow, by_flow[flow.id]))
    ]


def _records(variant: str, case: CheckedFlow) -> Iterator[Record]:
    whole = [exchange.passed for exchange in case.exchanges]
    if None not in whole:
        passed = [bool(outcome) for outcome in whole]
        yield case.record(variant, FLOWS, passed, None)
        yield case.record(variant, use_case_task(case.flow.use_case), passed, None)
    for number, (_, check) in enumerate(case.flow.checks):
        outcomes = [exchange.checks[number].passed for exchange in case.exchanges]
        if None not in outcomes:
            yield case.record(variant, kind_task(check.kind), [bool(outcome) for outcome in outcomes], number)


def unscored_of(flows: FlowSet, exchanges: Sequence[FlowExchange]) -> dict[str, set[str]]:
    """The items without a score, by task: the ids under which `components/evidence/answers.py` knows them."""
    ids: dict[str, set[str]] = {}
    every_score = [
        exchange.model_copy(update={"checks": tuple(_decided(check) for check in exchange.checks)})
        for exchange in exchanges
    ]
    scored = {(row.task, row.cluster, row.item_id) for row in records_of("", flows, exchanges)}
    for row in records_of("", flows, every_score):
        if (row.task, row.cluster, row.item_id) not in scored:
            item = f"{row.cluster} item {row.item_id}" if row.cluster else str(row.item_id)
            ids.setdefault(row.task, set()).add(item)
    return ids


def _decided(check: CheckOutcome) -> CheckOutcome:
    return check.model_copy(update={"passed": bool(check.passed)})


def task_scores(flows: FlowSet, records: Sequence[Record]) -> tuple[TaskScore, ...]:
    """The score of each task: the mean over its items."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    settings = settings_of(flows)
    return tuple(
        _score(task, by_task[task], flows.digest[:12], settings) for task in flow_tasks(flows.asked) if task in by_task
    )


def _score(task: str, records: Sequence[Record], version: str, settings: PromptSettings) -> TaskScore:
    scores = [record.score or 0.0 for record in records]
    return TaskScore(
        task=task,
        metric=METRIC,
        score=fmean(scores),
        stderr=stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0,
        items=len(records),
        shots=0,
        chance=0.0,
        version=version,
        settings=settings,
        cut=sum(record.cut for record in records),
        lengths=lengths_of(records),
    )


def settings_of(flows: FlowSet) -> PromptSettings:
    """How the flows are asked: as chats, with each of the samplings that they have."""
    samplings: Mapping[str, dict[str, object]] = {
        flow.sampling.model_dump_json(): flow.sampling.model_dump(mode="json") for flow in flows.asked
    }
    return PromptSettings.model_validate({"chat": True, "generation": [samplings[key] for key in sorted(samplings)]})
