"""How far llm-compressor is, by its log: the lines are those of llm-compressor 0.14 on the demo model."""

from pathlib import Path

import pytest

from quantgate.components.quantize.log_progress import LogProgress, progress_in
from quantgate.components.run.progress import Step, read

LOADING = "Loading weights:   0%|          | 0/272\rLoading weights: 100%|██████████| 272/272 [00:00<00:00, 2992it/s]\n"
PREPARING = "Preparing cache:  38%|███▊      | 12/32 [00:00<00:00, 462.28it/s]\r"
FIRST = "(1/31): Calibrating:   0%|          | 0/32 [00:00<?, ?it/s]\r(1/31): Calibrating: 100%|██████████| 32/32\n"
QUANTIZING = "T19:37:18 | compress_module_list | INFO - Quantizing 1 module(s): ['model.layers.0.mlp.down_proj']\n"
PACKING = "Compressing model:  43%|████▎     | 6/14 [00:00<00:00, 59.72it/s]\r"
ON = "(1/31): Propagating:  41%|████      | 13/32 [00:00<00:00, 122.18it/s]\r"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", LogProgress()),
        ("WARNING - No accelerator available! Compressing model on CPU instead\n", LogProgress()),
        (LOADING, LogProgress(0, 0, "reading tensors 272 of 272")),
        (LOADING + PREPARING, LogProgress(0, 0, "preparing texts 12 of 32")),
        (LOADING + PREPARING + FIRST, LogProgress(1, 31, "passing the texts through it")),
        (FIRST + QUANTIZING, LogProgress(1, 31, "quantizing model.layers.0.mlp.down_proj")),
        (FIRST + QUANTIZING + ON, LogProgress(1, 31, "passing the texts on to the next")),
        (FIRST + PACKING, LogProgress(1, 31, "packing weights 6 of 14")),
        (FIRST + FIRST.replace("(1/", "(2/"), LogProgress(2, 31, "passing the texts through it")),
    ],
)
def test_the_last_line_says_the_layer_and_what_is_done_there(log: str, expected: LogProgress) -> None:
    assert progress_in(log.encode()) == expected


def test_only_layers_are_counted_and_the_note_says_what_is_done(tmp_path: Path) -> None:
    step = Step(tmp_path / "progress.jsonl", "quantize", "int8")
    for log in (PREPARING, FIRST + QUANTIZING):
        said, step.reported_at = progress_in(log.encode()), 0.0
        step.advance(said.layer, said.layers, said.note)
    events = [(event.done, event.total, event.note) for event in read(tmp_path / "progress.jsonl")[0]]
    assert events == [(0, 0, "preparing texts 12 of 32"), (1, 31, "layers; quantizing model.layers.0.mlp.down_proj")]
