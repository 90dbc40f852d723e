"""The record of attempts: how often variants of a base model were judged for a use case.

One file in the store for each judgement, attempts/MODEL DIGEST/USE CASE/N.json, numbered from 1 and never changed:

    attempt   one set of variants' weights, judged by one policy; other weights or another policy are a new attempt
    run       the same weights and policy with other answers, e.g. to more questions, are another run of the attempt
    neither   the same weights, policy and answers are the same judgement, whoever repeats it

The count is per base model (its digest) and use case (the policy's name). So an edit of a policy does not begin a new
count. A file is created only if no other run has created it, so two runs at the same time get different numbers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.artifact import Artifact
from quantgate.components.storage.location import open_store


class Attempt(Artifact):
    """The number of an attempt, and of the run within it: another run judges the same weights on other answers."""

    number: int = Field(ge=1)
    run: int = Field(1, ge=1)

    def describe(self) -> str:
        """`attempt 2`, or `attempt 2, run 3`."""
        return f"attempt {self.number}" + (f", run {self.run}" if self.run > 1 else "")

    @property
    def next_run(self) -> "Attempt":
        """The same attempt with more questions."""
        return Attempt(number=self.number, run=self.run + 1)


class Judgement(Artifact):
    """What is judged, as digests: two equal judgements reach the same verdict."""

    policy: str
    weights: dict[str, str]
    """By variant."""
    evidence: str
    """Of all answers."""
    asked: str = ""
    """Of the questions, see EvaluationPlan."""

    def is_same(self, other: "Judgement") -> bool:
        """Whether the other one judges the same answers."""
        return self.is_same_attempt(other) and self.evidence == other.evidence

    def is_same_attempt(self, other: "Judgement") -> bool:
        """Whether the other one judges the same weights by the same policy."""
        return (self.policy, self.weights) == (other.policy, other.weights)


def evidence_digest(records: Mapping[str, str], again: str, looks: Mapping[str, tuple[int, int]]) -> str:
    """One digest of all answers: the sha256 values of their records by variant, and of the second pass's.

    `looks` are each variant's look, and how many were planned: they decide which share of the error it may use.
    """
    by_variant = {variant: [sha256, *looks[variant]] for variant, sha256 in records.items()}
    return hashlib.sha256(json.dumps([by_variant, again], sort_keys=True).encode()).hexdigest()


class CountedRun(Artifact):
    """One file of the record."""

    model: str
    """The base model's digest."""
    use_case: str
    attempt: Attempt
    judgement: Judgement
    where: str = ""
    """The run's results, or the run in MLflow."""


def attempt_of(counted: Sequence[CountedRun], judgement: Judgement) -> Attempt:
    """The attempt of a judgement: a known one's own, else the next number."""
    same = [run.attempt for run in counted if run.judgement.is_same(judgement)]
    if same:
        return same[0]
    earlier = [run.attempt for run in counted if run.judgement.is_same_attempt(judgement)]
    return _latest(earlier).next_run if earlier else _new(counted)


def expected_attempt(counted: Sequence[CountedRun], policy: str, asked: str, weights: Mapping[str, str]) -> Attempt:
    """The attempt that a run will probably be, before all weights and answers are there; `weights` are those known."""
    alike = [
        run for run in counted if run.judgement.policy == policy and weights.items() <= run.judgement.weights.items()
    ]
    same = [run.attempt for run in alike if run.judgement.asked == asked]
    if same:
        return same[-1]
    return _latest([run.attempt for run in alike]).next_run if alike and weights else _new(counted)


def _latest(attempts: Sequence[Attempt]) -> Attempt:
    return max(attempts, key=lambda attempt: (attempt.number, attempt.run))


def _new(counted: Sequence[CountedRun]) -> Attempt:
    """The next number: two stores may have given the same number to different attempts."""
    attempts = {json.dumps([run.judgement.policy, run.judgement.weights], sort_keys=True) for run in counted}
    return Attempt(number=max([len(attempts), *(run.attempt.number for run in counted)]) + 1)


@dataclass(frozen=True)
class AttemptRecord:
    """The record for one base model and use case in a store."""

    store: str
    """A folder or s3://BUCKET/PREFIX."""
    model: str
    use_case: str

    @property
    def folder(self) -> str:
        """The name in the store: a use case's name may be any text."""
        return f"attempts/{self.model}/{hashlib.sha256(self.use_case.encode()).hexdigest()[:16]}"

    def read(self) -> tuple[CountedRun, ...]:
        """The runs that were counted, in their order; raises PrerequisiteError for a file that cannot be read."""
        counted: list[CountedRun] = []
        while run := self._read(f"{self.folder}/{len(counted) + 1}.json"):
            counted.append(run)
        return tuple(counted)

    def _read(self, name: str) -> CountedRun | None:
        store = open_store(self.store)
        try:
            text = store.get_text(name)
            run = None if text is None else CountedRun.model_validate_json(text)
        except (ValidationError, UnicodeDecodeError) as error:
            raise _damaged(store.uri(name), "it is not the JSON that was written") from error
        if run and (run.model, run.use_case) != (self.model, self.use_case):
            raise _damaged(store.uri(name), f"it counts {run.use_case} of the model {run.model[:12]}")
        return run

    def add(self, judgement: Judgement, attempt: Attempt, where: str, counted: Sequence[CountedRun]) -> bool:
        """Count the judgement after the runs that `read` returned; False if another run was counted meanwhile.

        A judgement among them is not counted again.
        """
        if any(run.judgement.is_same(judgement) for run in counted):
            return True
        run = CountedRun(model=self.model, use_case=self.use_case, attempt=attempt, judgement=judgement, where=where)
        name = f"{self.folder}/{len(counted) + 1}.json"
        return open_store(self.store).create_text(run.model_dump_json(indent=2) + "\n", name)


def _damaged(uri: str, fault: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"The record of attempts {uri} is damaged: {fault}. Nothing was judged, because the number of earlier attempts"
        " decides how much evidence a pass needs. Restore the file from a backup. If there is none, delete it and the"
        " files with higher numbers beside it: with an MLflow server, the attempts are read from there."
    )
