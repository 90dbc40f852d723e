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
    sample: dict[str, Any], row: "SuiteTask", output_type: str, model: "Endpoint", told: Mapping[str, Any]
) -> Record:
    """The record of one of lm-eval's logged samples; `model` tokenizes as it did, `told` are further fields."""
    kind = {"multiple_choice": of_choices, "generate_until": of_text, "loglikelihood_rolling": of_document}[output_type]
    common = {
        **told,
        "task": row.task,
        "metric": row.metric,
        "item_id": int(sample["doc_id"]),
        "item_hash": str(sample["doc_hash"]),
    }
    return kind(sample, row, model, common)


def of_choices(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """Of a task whose choices' log-likelihoods are compared."""
    prompts = [model._encode_pair(*(str(each) for each in pair)) for pair in sample_pairs(sample)]
    lengths = [len(context) + len(continuation) for context, continuation in prompts]
    answers = [each[0] if isinstance(each[0], (tuple, list)) else each for each in sample["resps"]]
    logliks = [float(loglik) for loglik, _ in answers]
    return Record(
        **common,
        score=as_share(float(sample[row.metric])),
        target=int(sample["target"]) if str(sample["target"]).isdecimal() else -1,
        logliks=logliks,
        answer=taken(logliks, common["choices"], row.metric),
        greedy=[str(greedy) == "True" for _, greedy in answers],
        prompt_hash=hash_of([[len(context), *context, *continuation] for context, continuation in prompts]),
        tokens=sum(lengths),
        truncated=max(lengths) > model.max_length,
    )


def taken(logliks: Sequence[float], choices: Sequence[str], metric: str) -> str:
    """The choice that the metric takes for the answer; "" where it takes none, or the choices are not known."""
    if metric not in ("acc", "acc_norm") or len(choices) != len(logliks):
        return ""
    lengths = [len(each) if metric == "acc_norm" else 1 for each in choices]
    return choices[max(range(len(choices)), key=lambda each: logliks[each] / max(lengths[each], 1))]


def of_text(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """Of a task whose answer is generated; a program has no score yet."""
    ((context, settings),) = sample_pairs(sample)
    found = model.generated(str(context), settings)
    (taken,) = sample["filtered_resps"]
    program = f"{taken[0] if isinstance(taken, list) else taken}\n{sample['target']}" if row.programs else ""
    return Record(
        **common,
        score=None if row.programs else as_share(float(sample[row.metric])),
        target=-1,
        logliks=[],
        greedy=[],
        answer=str(sample["resps"][0][0]),
        cut=found.cut,
        program=program,
        prompt_hash=hash_of([found.tokens]),
        tokens=len(found.tokens),
        truncated=found.truncated,
    )


def of_document(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """Of a task that predicts whole documents; they are read in windows, so that none is cut."""
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
    """The score, 0 or 1 where only rounding took it beyond, as a sum of normalized probabilities may be."""
    nearest = min(max(score, 0.0), 1.0)
    return nearest if abs(score - nearest) < ROUNDING else score


def hash_of(prompts: Sequence[Sequence[int]]) -> str:
    """sha256 over token ids."""
    digest = hashlib.sha256()
    for each in prompts:
        digest.update(array("q", each).tobytes())
    return digest.hexdigest()


def sample_pairs(sample: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Context and continuation, or generation settings, of each request of the item."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        return [(each["arg_0"], each["arg_1"]) for each in arguments.values()]
    return [(each[0], each[1]) for each in arguments]
