"""The first cause in a server's log, and what is checked before a start: each known cause with the sentence for it."""

import json
import os
from pathlib import Path

import pytest

from quantgate.components.run import machine
from quantgate.components.servers import before_start
from quantgate.components.servers.first_cause import described, first_cause

ENGINE, SERVER = "(EngineCore pid=31993) ", "(APIServer pid=27463) "
LIMIT = (
    f"{SERVER}WARNING 11-26 22:18:00 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase. "
    "This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n"
)
"""From the log of a real server: a warning that names an error."""


def engine_failed(cause: str, frames: int = 3, ends: str = "{'EngineCore': 1}") -> str:
    """vLLM 0.32's log when its engine fails: the cause twice, by two ways, and then the server's own error."""
    where = (
        "  File \"/env/vllm/v1/engine/core.py\", line 1482, in run_engine_core\n    raise ValueError('x: y')\n" * frames
    )
    traceback = f"Traceback (most recent call last):\n{where}{cause}"
    logged = traceback.replace("\n", f"\n{ENGINE}ERROR 11-26 22:26:13 [core.py:1510] ")
    return f"""{SERVER}INFO 11-26 22:18:01 [api_server.py:120] vLLM API server version 0.32.0
{LIMIT}
{ENGINE}INFO 11-26 22:18:09 [core.py:99] Initializing a V1 LLM engine with config: model='/m'
{ENGINE}ERROR 11-26 22:26:13 [core.py:1510] EngineCore failed to start.
{ENGINE}ERROR 11-26 22:26:13 [core.py:1510] {logged}
Process EngineCore:
{traceback}
{SERVER}Traceback (most recent call last):
{SERVER}  File "<frozen runpy>", line 198, in _run_module_as_main
{SERVER}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {ends}
"""


NO_BLOCKS = "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing."
TOO_LONG = (
    "To serve at least one request with the model's max seq len (8192), 1.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (0.5 GiB)."
)
BUSY = "Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory utilization (0.92)."
OOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"
ARCHITECTURE = (
    "Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: "
    "dict_keys(['BarForCausalLM'])"
)
UNRECOGNIZED = (
    "The checkpoint you are trying to load has model type `foo` but Transformers does not recognize this architecture."
)
CAPABILITY = (
    "The quantization method compressed-tensors is not supported for the current GPU. Minimum "
    "capability: 75. Current capability: 70."
)
TOKENIZER = (
    "Can't load tokenizer for '/m'. If you were trying to load it from 'https://huggingface.co/models', make sure"
)
WINDOW = "User-specified max_model_len (4096) is greater than the derived max_model_len (max_position_embeddings=2048)."
MEMORY = "The memory of the device is too small or in use"
FORMAT = "vLLM cannot run this format on this device"
LOGS = {
    "no memory for the cache": (engine_failed(f"ValueError: {NO_BLOCKS}"), f"ValueError: {NO_BLOCKS} {MEMORY}"),
    "a cache smaller than the window": (engine_failed(f"ValueError: {TOO_LONG}"), f"ValueError: {TOO_LONG} {MEMORY}"),
    "a device in use": (engine_failed(f"ValueError: {BUSY}"), f"ValueError: {BUSY} {MEMORY}"),
    "out of memory": (engine_failed(f"torch.OutOfMemoryError: {OOM}"), f"OutOfMemoryError: {OOM}. {MEMORY}"),
    "hundreds of lines before the end": (
        engine_failed(f"torch.OutOfMemoryError: {OOM}", frames=400),
        f"OutOfMemoryError: {OOM}. {MEMORY}",
    ),
    "hundreds of lines of the processes that stop afterwards": (
        engine_failed(f"torch.OutOfMemoryError: {OOM}")
        + f"{SERVER}ERROR 11-26 22:26:14 [llm.py:9] EngineDeadError: See stack trace (above) for the root cause.\n"
        * 300,
        f"OutOfMemoryError: {OOM}. {MEMORY}",
    ),
    "an unknown architecture": (
        (
            f'{LIMIT}\n{SERVER}Traceback (most recent call last):\n{SERVER}  File "x", line 1\n'
            f"{SERVER}pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            f"{SERVER}  Value error, {ARCHITECTURE} [type=value_error, input_value=ArgsKwargs((), {{}})]\n"
        ),
        f"ValidationError: 1 validation error for ModelConfig Value error, {ARCHITECTURE}",
    ),
    "a lookup that another exception explains": (
        (
            "Traceback (most recent call last):\n  File \"x\", line 1\nKeyError: 'foo'\n\n"
            "During handling of the above exception, another exception occurred:\n\n"
            f'Traceback (most recent call last):\n  File "x", line 2\nValueError: {UNRECOGNIZED}\n'
        ),
        f"ValueError: {UNRECOGNIZED} This vLLM cannot serve this kind of model",
    ),
    "an error while the first one is handled": (
        (
            'Traceback (most recent call last):\n  File "x", line 1\nRuntimeError: the weights have other shapes\n\n'
            "During handling of the above exception, another exception occurred:\n\n"
            "Traceback (most recent call last):\n  File \"x\", line 2\nKeyError: '/psm_ea26e872'\n"
        ),
        "RuntimeError: the weights have other shapes.",
    ),
    "a format that the device cannot run": (
        engine_failed(f"ValueError: {CAPABILITY}"),
        f"ValueError: {CAPABILITY} {FORMAT}",
    ),
    "no kernel for a layer": (
        engine_failed(
            "ValueError: Failed to find a kernel that can implement the WNA16 linear layer. Reasons: \n"
            " MarlinLinearKernel requires capability 75"
        ),
        (
            "ValueError: Failed to find a kernel that can implement the WNA16 linear layer. Reasons: "
            f"MarlinLinearKernel requires capability 75. {FORMAT}"
        ),
    ),
    "a wheel for other devices": (
        engine_failed("torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device"),
        f"AcceleratorError: CUDA error: no kernel image is available for execution on the device. {FORMAT}",
    ),
    "a port in use": (
        f"{SERVER}OSError: [Errno 98] Address already in use\n",
        "OSError: [Errno 98] Address already in use. Another process took the port",
    ),
    "no tokenizer": (f"{SERVER}OSError: {TOKENIZER}\n", f"OSError: {TOKENIZER}. The model's folder lacks a tokenizer"),
    "a full disk": (
        engine_failed("OSError: [Errno 28] No space left on device: '/cache/x'"),
        "OSError: [Errno 28] No space left on device: '/cache/x'. The disk, or the shared memory",
    ),
    "a window beyond the model's": (f"{SERVER}ValueError: {WINDOW}\n", f"ValueError: {WINDOW} The window is longer"),
    "an engine that was killed": (
        (
            f"{LIMIT}\n{SERVER}RuntimeError: Engine core initialization failed. See root cause above. "
            "Failed core proc(s): {'EngineCore': -9}\n"
        ),
        "The process EngineCore was ended by signal 9 (SIGKILL). The kernel ends a process so when main memory runs",
    ),
    "a known cause after one that was handled": (
        f"{ENGINE}ERROR 11-26 22:26:12 [x.py:1] ImportError: no flash attention here\n"
        + engine_failed(f"ValueError: {NO_BLOCKS}"),
        f"ValueError: {NO_BLOCKS}",
    ),
    "a refused option": (
        "usage: api_server.py [-h] [--host HOST]\napi_server.py: error: unrecognized arguments: --enable-scale-out\n",
        "api_server.py: error: unrecognized arguments: --enable-scale-out.",
    ),
    "an exception of C++": (
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  bad file\n",
        "what():  bad file.",
    ),
    "an error named within a line": (f"{ENGINE}ERROR failed: ValueError: bad scale\n", "ValueError: bad scale."),
    "an unknown error in colour": ("\x1b[31mValueError: Unknown layer\x1b[0m\n", "ValueError: Unknown layer."),
    "only what others say": (
        (
            f"{LIMIT}\n{ENGINE}Exception: WorkerProc initialization failed due to an exception in a background "
            "process. See stack trace for root cause.\nBrokenPipeError: [Errno 32] Broken pipe\n"
            "ERROR EngineDeadError: see above\n"
        ),
        "",
    ),
    "warnings": (f"{LIMIT}\n", ""),
}


@pytest.mark.fault(
    "servers", "a server dies, and its log has hundreds of lines after the cause", "the first cause, with what to do"
)
@pytest.mark.parametrize(("log", "expected"), LOGS.values(), ids=LOGS)
def test_the_first_cause_is_found_wherever_it_stands(log: str, expected: str) -> None:
    sentence = described(first_cause(log.splitlines()))
    assert sentence.startswith(expected), sentence
    assert bool(sentence) is bool(expected)


def test_lines_of_two_processes_alternate() -> None:
    log = f"""{ENGINE}Traceback (most recent call last):
{SERVER}Traceback (most recent call last):
{ENGINE}KeyError: 'foo'
{SERVER}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
{ENGINE}
{ENGINE}During handling of the above exception, another exception occurred:
{ENGINE}ValueError: bad scale
"""
    assert first_cause(log.splitlines()) == "ValueError: bad scale"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder that nothing is known against."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").touch()
    return tmp_path


@pytest.mark.fault("servers", "a model without a tokenizer is to be served", "said before the server starts")
def test_a_model_without_a_tokenizer_is_not_started(model: Path) -> None:
    assert before_start.obstacle(model, model, "1") == ""
    (model / "tokenizer.json").unlink()
    assert before_start.obstacle(model, model, "1") == f"{model} has no tokenizer. Add the model's tokenizer.json."


@pytest.mark.fault(
    "servers", "weights and cache need more memory than the machine has", "said before the server starts"
)
def test_a_model_larger_than_the_machine_is_not_started(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "memory.max").write_text("3221225472\n")
    monkeypatch.setattr(machine, "CGROUP", model / "memory.max")
    with (model / "model.safetensors").open("wb") as weights:
        os.truncate(weights.fileno(), 2**30)
    assert before_start.obstacle(model, model, "2") == ""
    assert before_start.obstacle(model, model, "3").startswith(
        "its weights and 3 GiB of key-value cache need 4.0 GiB, and this machine has 3.0 GiB of memory."
    )


@pytest.mark.fault("machine", "the disk is full before a server starts", "said before the server starts")
def test_a_server_is_not_started_on_a_full_disk(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_start, "SPARE_BYTES", 10**18)
    assert before_start.obstacle(model, model, "1") == f"the disk of {model} is full. Make room."


@pytest.mark.fault("servers", "the GPU is too old for the variant's format", "said before the server starts")
@pytest.mark.parametrize(
    ("printed", "config", "starts"),
    [
        ("7.0\n", {"quantization_config": {}}, False),
        ("8.0\n7.0\n", {"quantization_config": {}}, False),
        ("7.5\n", {"quantization_config": {}}, True),
        ("12.0\n", {"quantization_config": {}}, True),
        ("7.0\n", {}, True),
        ("[N/A]\n", {"quantization_config": {}}, True),
    ],
)
def test_a_gpu_that_is_too_old_for_the_format_is_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, printed: str, config: dict[str, object], starts: bool
) -> None:
    (model / "config.json").write_text(json.dumps(config))
    program = model / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{model}:{os.environ['PATH']}")
    reason = before_start.obstacle(model, model, None)
    assert (reason == "") is starts
    assert starts or reason.startswith("the GPU has compute capability 7.0, and vLLM runs quantized weights from 7.5")


def test_without_a_gpu_there_is_no_compute_capability(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.compute_capability() is None
