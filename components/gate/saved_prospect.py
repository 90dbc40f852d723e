"""What saved answers can show, before they are judged."""

from collections.abc import Sequence

from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.assumed_answers import PlannedTask
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.prospects import Prospect
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import TaskScore
from quantgate.components.run.attempts import Attempt


def prospect_of_saved(
    use_case: UseCase, candidates: Sequence[Candidate], attempt: Attempt | None = None
) -> Prospect | None:
    """The policy and the baseline's questions and scores; the first candidate is the baseline.

    None if no variant's answers can be paired with the baseline's, or if none of them has a score.
    """
    baseline, *variants = candidates
    judged = [variant for variant in variants if variant.answers and not variant.failure]
    scored = [task for task in baseline.scores.tasks if task.is_share and task.task in baseline.answers]
    if baseline.failure or not judged or not scored:
        return None
    tasks = tuple(_answered(task, baseline.answers[task.task]) for task in scored)
    looks = max(candidate.scores.looks for candidate in candidates)
    return Prospect(use_case, tasks, len(judged), looks, measured=True, attempt=attempt)


def _answered(task: TaskScore, answers: Answers) -> PlannedTask:
    settings, clusters = task.settings, tuple(map(len, answers.places_by_cluster().values()))
    sampled = settings.samples > 1 or any(kwargs.get("temperature") for kwargs in settings.generation)
    return PlannedTask(
        task.task,
        answers.items,
        task.chance,
        min(task.score, 1.0),
        settings.samples,
        sampled,
        clusters if len(clusters) > 1 else (),
        generated=bool(settings.generation),
    )
