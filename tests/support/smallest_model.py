"""The smallest folder that is accepted as a model; no library could load it."""

import json
import struct
from pathlib import Path


def safetensors(data_bytes: int) -> bytes:
    """A complete safetensors file with one tensor of that many bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(data_bytes)


def smallest_model(folder: Path) -> Path:
    """The folder with a configuration, a tokenizer and 100 bytes of weights."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors(100))
    return folder
