"""Several GPUs: which variants they quantize together, and how the program `compress` is started once for each.

Each process is a rank of one process group of PyTorch, on a GPU of its own with a part of the calibration texts.
llm-compressor 0.14 adds up what the ranks measure: GPTQ has the Hessian of all texts, and one rank rounds each matrix.
That is used for GPTQ and RTN. The other methods use one GPU:

    AWQ                     asks for an accelerator, so that no test without a GPU can run it on several ranks
    SmoothQuant, SpinQuant  each rank multiplies the weights, which all ranks share: some would be multiplied twice
    AutoRound               trains in its own way on several GPUs, which is not tried here
    recipes of the user's   may have any of these
"""

import sys
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import Variant
from quantgate.components.run.calibration import Calibration

METHODS = ("GPTQ", "RTN")
PROGRAM = "quantgate.components.quantize.compress"
NO_TCP_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""For PyTorch's launcher, which would also start a TCP store for the ranks; see `program`."""


def ranks_for(variant: Variant, gpus: int) -> int:
    """How many ranks quantize the variant on so many GPUs: one on each, or one alone if its method allows no more."""
    return gpus if variant.method in METHODS and not variant.recipe else 1


def check_ranks(ranks: int, calibration: Calibration) -> None:
    """Raise PrerequisiteError if a rank would have no GPU or no calibration text."""
    import torch

    if ranks > 1 and (here := torch.cuda.device_count()) < ranks:
        raise PrerequisiteError(
            f"--quantize-gpus is {ranks}, and PyTorch finds {here} GPUs here. Give a number up to {max(here, 1)}; on a"
            f" cluster, compile the pipeline with --gpus {ranks}."
        )
    if calibration.samples < ranks:
        raise PrerequisiteError(
            f"--quantize-gpus is {ranks}, and each GPU needs a calibration text: there are {calibration.samples}. Give"
            " more (--calibration-samples)."
        )


def program(ranks: int, scratch: Path) -> list[str]:
    """The beginning of the command line that runs `compress`; its log has what rank 0 prints, and why a rank ended.

    PyTorch's launcher ends all ranks when one ends with an error, and on a signal to end. It keeps its state
    in a file of `scratch`, which only this account can read: by default it would be in a TCP store, which listens on
    all interfaces and whose pickles the launcher loads.
    """
    if ranks == 1:
        return [sys.executable, "-m", PROGRAM]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-id", "quantize"]
    launcher += ["--rdzv-conf", "store_type=file", "--rdzv-endpoint", str(scratch / "launcher")]
    launcher += ["--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks), "--local-ranks-filter", "0"]
    return [*launcher, "--module", PROGRAM]
