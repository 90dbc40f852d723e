"""A quantized checkpoint that a run was given as a variant."""

from quantgate.components.storage.artifact import Artifact

GGUF_METHOD = "gguf"
"""Stands for a GGUF file, which llama.cpp serves, where other checkpoints name their quant_method."""


class Checkpoint(Artifact):
    """The checkpoint as the step `resolve` stored it: its own weights, the baseline's tokenizer."""

    source: str
    """The source that the user gave, e.g. `hf:org/name`."""
    digest: str
    uri: str
    size_bytes: int
    scheme: str
    """E.g. `W4A16`."""
    method: str
    """Its configuration's quant_method, e.g. `awq`."""
    stored_bits: float = 0.0
    """Of a quantized weight, see `Variant.stored_bits`."""
