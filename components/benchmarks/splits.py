"""A split of a benchmark, its rows, and the interface of a source of rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Split:
    """One split of a benchmark, named as the hub names it."""

    path: str
    """The data set, e.g. `openai/gsm8k`."""
    name: str
    """The configuration, e.g. `main`; empty for none."""
    split: str

    @property
    def stem(self) -> str:
        """`openai/gsm8k/main/test`; `default` stands for an empty configuration."""
        return f"{self.path}/{self.name or 'default'}/{self.split}"

    @property
    def file(self) -> str:
        """The split's name in a mirror, `openai/gsm8k/main/test.parquet`."""
        return f"{self.stem}.parquet"


@dataclass(frozen=True)
class Rows:
    """The rows of one split."""

    dataset: "datasets.Dataset"
    sha256: str
    """The sha256 of the rows' file; for rows from the hub, of the Parquet file that a mirror would contain."""
    of: str
    """The hub's commit, or the local file."""


class Source(Protocol):
    """A source of rows."""

    @property
    def description(self) -> str:
        """One line for people, recorded in the results: the same for all variants of a run."""

    def split(self, wanted: Split) -> Rows | None:
        """The split's rows; None only when the source has no such split; raises PrerequisiteError for a failure."""
