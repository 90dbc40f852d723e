"""A frozen value in one JSON file."""

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


class Artifact(BaseModel):
    """A frozen value that reads and writes one JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The value that `write` wrote to `path`; raises pydantic's ValidationError for a value of another type."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the value to `path` atomically, so that no reader sees a partial file."""
        write_text(Path(path), self.model_dump_json(indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` atomically; creates a missing folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
