"""One item's record: lm-eval's own filter and metric on the answers to its prompts."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lm_eval.api.instance import Instance

from quantgate.components.benchmarks import protocol
from quantgate.components.benchmarks.encoder import Encoder
from quantgate.components.benchmarks.harness import Prepared
from quantgate.components.benchmarks.prompts import ItemPrompts
from quantgate.components.benchmarks.task_score import NoScoreError
from quantgate.components.benchmarks.thinking import Reply
from quantgate.components.evaluate.program_tests import with_helpers
from quantgate.components.run.records import Record
from quantgate.components.servers.client import Text
from quantgate.components.servers.scoring_requests import Loglik

ROUNDING = 1e-9

Answers = Sequence[Loglik] | Text
"""The log-likelihood for each request of an item, or its generated text."""


@dataclass(frozen=True)
class Recorder:
    """Makes the records of one task's items."""

    task: Prepared
    variant: str
    encoder: Callable[[], Encoder]
    """Gives the variant's tokenizer, which is loaded only when an answer needs it."""

    def record(self, item: ItemPrompts, answers: Answers, sample: int = 0) -> Record:
        """The record of an item from the answers to its prompts; `sample` is the number of a generated answer."""
        task = self.task.leaves[item.leaf].task
        doc = task.doc(item.position)
        if isinstance(answers, Text):
            fields = self.of_text(item, doc, answers)
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            fields = self.of_document(item, doc, answers)
        else:
            fields = self.of_choices(item, doc, answers)
        row = self.task.row
        no_choices: dict[str, Any] = {"target": -1, "logliks": [], "greedy": []}
        cluster = str(doc.get("cluster") or "") if row.custom else self.task.leaves[item.leaf].cluster
        return Record(
            variant=self.variant,
            task=row.task,
            metric=row.metric,
            item_id=item.position,
            item_hash=item.item_hash,
            sample=sample,
            cluster=cluster,
            question=item.question,
            choices=item.choices,
            truncated=False,  # an item that does not fit the window is not asked
            **no_choices | fields,
        )

    def of_choices(self, item: ItemPrompts, doc: Any, answers: Sequence[Loglik]) -> dict[str, Any]:
        """The fields of an item whose continuations are compared, or judged one by one."""
        logliks = [answer.loglik for answer in answers]
        target = str(self.task.leaves[item.leaf].task.doc_to_target(doc))
        contexts = [packed([len(context), *context]) for context in item.contexts]
        pairs = [(answer.loglik, answer.greedy) for answer in answers]
        return {
            "score": item_score(self.metric(item, doc, pairs)[0], self.task.row.metric),
            "target": int(target) if target.isdecimal() else -1,
            "logliks": logliks,
            "answer": chosen_answer(logliks, item.choices, self.task.row.metric),
            "greedy": [answer.greedy for answer in answers],
            "prompt_hash": hash_of(
                part for number, continuation in item.requests for part in (contexts[number], packed(continuation))
            ),
            "tokens": sum(len(item.contexts[number]) + len(continuation) for number, continuation in item.requests),
        }

    def of_text(self, item: ItemPrompts, doc: Any, text: Text) -> dict[str, Any]:
        """The fields of an item whose answer is generated; a program has no score yet."""
        request = json.loads(item.generation)
        reply = protocol.reply_of(text, item.start, self.task.row, request["stop"])
        program, tests, score = "", "", None
        if self.task.row.programs:
            _, filtered = self.metric(item, doc, [reply.answer])
            program = str(filtered[0] if isinstance(filtered, list) else filtered)
            tests = with_helpers(str(self.task.leaves[item.leaf].task.doc_to_target(doc)), str(doc.get("prompt") or ""))
        else:
            score = item_score(self.metric(item, doc, [reply.answer])[0], self.task.row.metric)
        (prompt,) = item.contexts
        return {
            "score": score,
            "answer": reply.answer,
            "cut": text.cut,
            "answer_tokens": text.tokens,
            "thinking_tokens": self.thinking_tokens(text, reply),
            "answer_limit": request["max_tokens"],
            "program": program,
            "tests": tests,
            "prompt_hash": hash_of([packed(prompt)]),
            "tokens": len(prompt),
        }

    def thinking_tokens(self, text: Text, reply: Reply) -> int | None:
        """How many of the answer's tokens are thinking: as the server counted, or else by the model's tokenizer."""
        if text.thinking_tokens is not None or text.tokens is None:
            return text.thinking_tokens
        if not reply.thinking:
            return 0
        (tokens,) = self.encoder().batches([reply.thinking])
        return min(len(tokens), text.tokens)

    def of_document(self, item: ItemPrompts, doc: Any, windows: Sequence[Loglik]) -> dict[str, Any]:
        """The fields of a perplexity task's document, which is scored in windows."""
        loglik, units = self.metric(item, doc, [sum(window.loglik for window in windows)])[0]
        tokens = [token for _, continuation in item.requests for token in continuation]
        return {
            "score": float(loglik),
            "units": float(units),
            "prompt_hash": hash_of([packed(tokens)]),
            "tokens": len(tokens),
        }

    def metric(self, item: ItemPrompts, doc: Any, responses: Sequence[Any]) -> tuple[Any, Any]:
        """The task's metric on one response to each request, after its filter; and the first filtered response."""
        task = self.task.leaves[item.leaf].task
        instances = [
            Instance(task.OUTPUT_TYPE, doc, (), number, (task.config.task, item.position, 1), [response])
            for number, response in enumerate(responses)
        ]
        (chosen,) = [pipeline for pipeline in task._filters if pipeline.name == self.task.row.filter]
        chosen.apply(instances)
        filtered = [instance.filtered_resps[chosen.name] for instance in instances]
        return task.process_results(doc, filtered).get(self.task.row.metric), filtered[0]


def chosen_answer(logliks: Sequence[float], choices: Sequence[str], metric: str) -> str:
    """The choice that the metric counts as the answer; "" when the metric picks none or the choices are unknown."""
    if metric not in ("acc", "acc_norm") or len(choices) != len(logliks):
        return ""
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    return choices[max(range(len(choices)), key=lambda index: logliks[index] / max(lengths[index], 1))]


def item_score(value: Any, metric: str) -> float:
    """The item's score from 0 to 1; of a metric with a list for each item, such as IFEval's per instruction, the mean.

    Raises NoScoreError for a number outside, which is no share of anything.
    """
    score = as_share(fmean(value) if isinstance(value, list) else float(value))
    if score < 0 or score > 1:
        raise NoScoreError(f"{metric} gives an item {score:g}, which is not from 0 to 1. Choose another metric.")
    return score


def as_share(score: float) -> float:
    """The score, with 0 or 1 in place of a value that rounding moved outside (a sum of normalized probabilities)."""
    nearest = min(max(score, 0.0), 1.0)
    return nearest if abs(score - nearest) < ROUNDING else score


def packed(tokens: Sequence[int]) -> bytes:
    """Each token id as a 64-bit number."""
    return array("q", tokens).tobytes()


def hash_of(parts: Iterable[bytes]) -> str:
    """The hex sha256 of the prompts' token ids, which `packed` packs."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
