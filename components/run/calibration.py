"""The calibration data of the quantization: what a plan asks for, and what a run has chosen."""

from quantgate.components.storage.artifact import Artifact

PASSAGES = "boolq"
"""The embedded calibration texts: the passages of a benchmark that no suite scores."""
CHAT = "hf:HuggingFaceH4/ultrachat_200k:train_sft"
"""The default where the hub or the run's mirror has it: general chats, as llm-compressor's own examples use."""
EMBEDDED_SIZE, USUAL_SIZE = (32, 256), (512, 2048)
"""Samples and tokens of the embedded passages, and of all other texts, unless the plan says otherwise."""
FEWEST_TOKENS = 16


class Calibration(Artifact):
    """The calibration texts that a run has chosen; they lie in its results, see `RunResults.calibration_file`."""

    name: str = f"{PASSAGES} passages"
    """What they are, for readers, e.g. `HuggingFaceH4/ultrachat_200k:train_sft at commit 8049631c`."""
    samples: int
    """The number of texts."""
    tokens: int
    """Tokens to which each text is cut."""
    used_tokens: int = 0
    """The number of tokens of all texts, each cut."""
    sha256: str = ""
    """Of the file with the texts."""
    note: str = ""
    """What a reader should know about the choice; empty for nothing."""
    number: int = 0
    """Its place among the run's sets."""

    def describe(self) -> str:
        """E.g. `32 samples of up to 256 tokens of boolq passages`, and the note."""
        words = f"{self.samples} samples of up to {self.tokens} tokens of {self.name}"
        return f"{words} ({self.note})" if self.note else words

    @property
    def identity(self) -> tuple[str, int, int]:
        """What determines the weights: the texts, and how many tokens of each."""
        return self.sha256, self.samples, self.tokens
