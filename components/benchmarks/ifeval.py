"""What IFEval's checks need besides its rows, so that they work offline and are reproducible.

lm-eval's checks count words and sentences with NLTK's model `punkt_tab`, which they would download. They detect a
text's language with langdetect, which is random unless it is seeded. The model comes from a Python package that
contains it, or from a mirror.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import datasets

from quantgate.components.benchmarks.splits import Rows, Source, Split
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.wheels import wheel
from quantgate.components.storage.artifact import write_text
from quantgate.components.storage.cache import cache_dir

TASKS = re.compile(r"(leaderboard_)?ifeval|leaderboard_instruction_following")
"""The tasks whose modules of lm-eval load the model."""
PACKAGE = "llama-index-core"
VERSION = "0.14.25"
WHEEL_SHA256 = "caa7d9c5ac9b13dc33400cf8d5e92e689b6d1e4497eb9bfa50d6f52ca2eb22a1"
MEMBERS = "llama_index/core/_static/nltk_cache/tokenizers/punkt_tab/english/"
PUNKT = Split("nltk/punkt_tab", "english", "files")
FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")


@dataclass(frozen=True)
class WithPunkt:
    """A source of rows with the split PUNKT added: one row a file, with its name and text."""

    source: Source

    @property
    def description(self) -> str:
        """As the source's."""
        return self.source.description

    def split(self, wanted: Split) -> Rows | None:
        """As the source's."""
        return punkt() if wanted == PUNKT else self.source.split(wanted)


def needs_punkt(task: str) -> bool:
    """Whether lm-eval's module of the task loads the model."""
    return TASKS.fullmatch(task) is not None


def punkt() -> Rows:
    """The model's files from the package."""
    archive = wheel(PACKAGE, VERSION, WHEEL_SHA256, cache_dir())
    with zipfile.ZipFile(archive) as package:
        texts = [package.read(MEMBERS + name).decode() for name in FILES]
    rows = datasets.Dataset.from_dict({"file": list(FILES), "text": texts})
    return Rows(rows, WHEEL_SHA256, f"{PACKAGE} {VERSION}")


def make_ready(source: Source) -> None:
    """Put the model where NLTK finds it, and seed langdetect; call it before lm-eval's module of IFEval is loaded."""
    import langdetect
    import nltk

    model = source.split(PUNKT)
    if model is None:
        raise PrerequisiteError(
            f"{source.description} has no {PUNKT.file}, which IFEval's checks need. Make the mirror again."
        )
    folder = cache_dir() / "nltk" / model.sha256[:16]
    for row in model.dataset:
        write_text(folder / "tokenizers" / "punkt_tab" / "english" / Path(row["file"]).name, row["text"])
    if str(folder) not in nltk.data.path:
        nltk.data.path.insert(0, str(folder))
    langdetect.DetectorFactory.seed = 0
