"""Per-item records of what lm-eval logged."""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.run.records import Record

if TYPE_CHECKING:
    from components.benchmarks.suites import SuiteTask
    from components.evaluate.endpoint import Endpoint


ROUNDING = 1e-9


def from_sample(
    sample: dict[str, Any], row: "SuiteTask", output_type: str, model: "Endpoint", fields: Mapping[str, Any]
) -> Record:
    """The record of one of lm-eval's logged samples; `model` tokenizes it again, `fields` are added to the record."""
    kind = {"multiple_choice": of_choices, "generate_until": of_text, "loglikelihood_rolling": of_document}[output_type]
    common = {
        **fields,
        "task": row.task,
        "metric": row.metric,
        "item_id": int(sample["doc_id"]),
        "item_hash": str(sample["doc_hash"]),
    }
    return kind(sample, row, model, common)


def of_choices(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """The record of a multiple-choice item: the log-likelihoods of its choices are compared."""
    prompts = [model._encode_pair(*(str(part) for part in pair)) for pair in sample_pairs(sample)]
    lengths = [len(context) + len(continuation) for context, continuation in prompts]
    answers = [resp[0] if isinstance(resp[0], (tuple, list)) else resp for resp in sample["resps"]]
    logliks = [float(loglik) for loglik, _ in answers]
    return Record(
        **common,
        score=as_share(float(sample[row.metric])),
        target=int(sample["target"]) if str(sample["target"]).isdecimal() else -1,
        logliks=logliks,
        answer=chosen_answer(logliks, common["choices"], row.metric),
        greedy=[str(greedy) == "True" for _, greedy in answers],
        prompt_hash=hash_of([[len(context), *context, *continuation] for context, continuation in prompts]),
        tokens=sum(lengths),
        truncated=max(lengths) > model.max_length,
    )


def chosen_answer(logliks: Sequence[float], choices: Sequence[str], metric: str) -> str:
    """The choice that the metric counts as the answer; "" when the metric picks none or the choices are unknown."""
    if metric not in ("acc", "acc_norm") or len(choices) != len(logliks):
        return ""
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    return choices[max(range(len(choices)), key=lambda index: logliks[index] / max(lengths[index], 1))]


def of_text(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """The record of an item whose answer is generated; a program has no score yet."""
    ((context, settings),) = sample_pairs(sample)
    generated = model.generated(str(context), settings)
    (filtered,) = sample["filtered_resps"]
    program = f"{filtered[0] if isinstance(filtered, list) else filtered}\n{sample['target']}" if row.programs else ""
    return Record(
        **common,
        score=None if row.programs else as_share(float(sample[row.metric])),
        target=-1,
        logliks=[],
        greedy=[],
        answer=str(sample["resps"][0][0]),
        cut=generated.cut,
        answer_tokens=generated.answer_tokens,
        answer_limit=generated.answer_limit,
        program=program,
        prompt_hash=hash_of([generated.tokens]),
        tokens=len(generated.tokens),
        truncated=generated.truncated,
    )


def of_document(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """The record of a perplexity task's document; the document is scored in windows, so it is never truncated."""
    loglik, units = sample[row.metric]
    tokens = model.tok_encode(str(sample["target"]))
    return Record(
        **common,
        score=float(loglik),
        units=float(units),
        target=-1,
        logliks=[],
        greedy=[],
        prompt_hash=hash_of([tokens]),
        tokens=len(tokens),
        truncated=False,
    )


def as_share(score: float) -> float:
    """The score, with 0 or 1 in place of a value that rounding moved outside (a sum of normalized probabilities)."""
    nearest = min(max(score, 0.0), 1.0)
    return nearest if abs(score - nearest) < ROUNDING else score


def hash_of(prompts: Sequence[Sequence[int]]) -> str:
    """The hex sha256 of the prompts' token ids."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(array("q", prompt).tobytes())
    return digest.hexdigest()


def sample_pairs(sample: dict[str, Any]) -> list[tuple[Any, Any]]:
    """A pair for each request of the item: its context, and its continuation or its generation settings."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        return [(request["arg_0"], request["arg_1"]) for request in arguments.values()]
    return [(request[0], request[1]) for request in arguments]
