"""The calibration data of the quantization."""

from dataclasses import dataclass

PASSAGES = "boolq"
"""Their benchmark."""


@dataclass(frozen=True)
class Calibration:
    """The calibration data: passages that no suite scores."""

    samples: int
    tokens: int
    benchmark: str = PASSAGES

    def describe(self) -> str:
        """E.g. `32 samples of up to 256 tokens of boolq passages`."""
        return f"{self.samples} samples of up to {self.tokens} tokens of {self.benchmark} passages"
