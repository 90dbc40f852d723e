"""When the work of an MLflow run was done; MLflow itself knows only when the run was recorded."""

from dataclasses import dataclass

from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.load_results import LoadTest


@dataclass(frozen=True)
class WorkTimes:
    """The beginning and the end of some work, as Unix times in seconds; 0 is unknown."""

    started_at: float = 0.0
    ended_at: float = 0.0

    @property
    def start_ms(self) -> int | None:
        """The beginning in milliseconds; None for MLflow's own, the moment of recording."""
        return round(self.started_at * 1000) or None

    @property
    def end_ms(self) -> int | None:
        """The end in milliseconds, never before the beginning: the two may come from different clocks."""
        return round(max(self.started_at, self.ended_at) * 1000) or None if self.ended_at else None


def variant_times(weights: Weights | None, scores: Scores | None, load_test: LoadTest | None) -> WorkTimes:
    """From the beginning of the variant's step quantize until it had its scores, or its load test ended."""
    ends = (artifact.ended_at for artifact in (scores, load_test) if artifact)
    return WorkTimes(weights.started_at if weights else 0.0, max(ends, default=0.0))
