"""Check llm-compressor's checkpoint before it is served."""

import json
from pathlib import Path

from safetensors import safe_open

from components.errors import PrerequisiteError

SCALE = ".weight_scale"


def check_compressed(folder: Path, layers: int) -> None:
    """Raise PrerequisiteError unless the folder contains a checkpoint with `layers` compressed layers."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config", {}).get("quant_method") != "compressed-tensors":
        raise PrerequisiteError(f"llm-compressor wrote a checkpoint without a quantization config to {folder}.")
    scales = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if name.endswith(SCALE):
                    scales += 1
                    if not bool(tensors.get_tensor(name).isfinite().all()):
                        raise PrerequisiteError(f"llm-compressor wrote scales that are not finite: {name}.")
    if scales != layers:
        raise PrerequisiteError(f"llm-compressor quantized {scales} layers, but {layers} were expected.")
