"""The command `quantgate setup`: vLLM's environment on this machine."""

from typing import Annotated, Literal

import typer

from quantgate.components.environments import serving_environment
from quantgate.components.errors import PrerequisiteError
from quantgate.components.servers.local_vllm import Engine, find_engine
from quantgate.pipelines.exits import INTERRUPTED
from quantgate.pipelines.terminal_output import print_text


def setup(
    accelerator: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(help="What vLLM runs on, in later runs too; overrules nvidia-smi. [default: cuda with a GPU]"),
    ] = None,
) -> None:
    """Make vLLM's environment in the cache, once. The first `quantgate run` does the same.

    A vLLM that $QUANTGATE_SERVING_PYTHON names, or that `make` installed beside this environment, is used as it is.
    The cache is $QUANTGATE_CACHE, or `quantgate` in the XDG cache.
    """
    engine = ready_engine(accelerator or "")
    print_text(f"Ready: {engine.package} {engine.version}, {engine.python}")


def ready_engine(accelerator: str = "") -> Engine:
    """vLLM; makes its environment if there is none. Raises PrerequisiteError if that fails."""
    if serving_environment.python_outside_cache() is None:
        try:
            serving_environment.make_in_cache(accelerator)
        except KeyboardInterrupt:  # typer would leave without a word
            print_text(
                "quantgate: interrupted; the next `quantgate setup` or `quantgate run` starts again.", to_stderr=True
            )
            raise typer.Exit(INTERRUPTED) from None
    engine = find_engine()
    if accelerator and engine.on_cpu != (accelerator == "cpu"):
        raise PrerequisiteError(
            f"{engine.python} has {engine.package} and is used first, so --accelerator {accelerator} changes nothing. "
            f"{serving_environment.how_to_change_accelerator(engine.python, accelerator)}"
        )
    return engine
