"""The calibration data of the quantization."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """The calibration data: passages that no suite scores."""

    benchmark: str = "boolq"
    samples: int = 32
    tokens: int = 256

    def describe(self) -> str:
        """E.g. `32 samples of up to 256 tokens of boolq passages`."""
        return f"{self.samples} samples of up to {self.tokens} tokens of {self.benchmark} passages"
