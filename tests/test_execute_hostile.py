import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from components.errors import PrerequisiteError
from components.sandbox.contained_run import run_contained
from components.sandbox.containment import Containment, Limits
from components.sandbox.inside import PATIENCE
from components.sandbox.programs import check_sandbox
from tests.support.hostile import ATTEMPT, HOSTILE, UNSOLVED

SECRET = "the-secret-of-this-machine"
SMALL = Limits(seconds=2, memory_bytes=256 << 20, output_bytes=64 << 10, scratch_bytes=4 << 20)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the hostile programs call x86-64's system calls"),
]


@dataclass(frozen=True)
class Seen:
    """The outcome of each hostile program, and of a correct one right after it."""

    reason: str
    output: str
    seconds: float
    honest: str


@pytest.fixture(scope="module")
def secrets_around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("around")
    home, outside = folder / "home", folder / "outside"
    home.mkdir()
    (home / "secret").write_text(SECRET)
    outside.write_text("unchanged")
    outside.chmod(0o666)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("QUANTGATE_SECRET", SECRET)
        yield home, outside


@pytest.fixture(scope="module")
def seen(secrets_around: tuple[Path, Path]) -> dict[str, Seen]:
    try:
        check_sandbox()
    except PrerequisiteError as missing:
        pytest.skip(str(missing))
    home, outside = secrets_around

    def see(text: str) -> Seen:
        program = ATTEMPT + text.replace("@HOME@", str(home)).replace("@OUTSIDE@", str(outside)) + UNSOLVED
        started = time.monotonic()
        run = run_contained(program, SMALL, Containment.BUBBLEWRAP)
        seconds = time.monotonic() - started
        honest = run_contained("assert sorted([2, 1]) == [1, 2]", SMALL, Containment.BUBBLEWRAP)
        return Seen(run.reason(), run.output.decode(errors="replace"), seconds, honest.reason())

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(HOSTILE, pool.map(see, HOSTILE.values()), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_neither_passes_nor_gains_access(name: str, seen: dict[str, Seen]) -> None:
    ended = seen[name]
    assert ended.reason
    assert ended.output.count("refused: ") >= ("attempt(" in HOSTILE[name])
    assert "BREACH" not in ended.output
    assert SECRET not in ended.output
    assert ended.seconds < PATIENCE * SMALL.seconds + 5
    assert ended.honest == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("leaves with 0", "exit status 0 before its last statement"),
        ("leaves with sys.exit", "SystemExit"),
        ("catches what stops it", "timed out after "),
        ("loops", "timed out after "),
        ("sleeps", "timed out after 6 s"),
        ("closes every file", "timed out after "),
        ("takes all memory", "over 256 MiB of memory"),
        ("threads without end", "over 16 threads"),
        ("takes all files", "over 1000 files"),
        ("prints without end", "over 64 KiB of output"),
        ("forks without end", "PermissionError"),
        ("calls by x32's numbers", "killed by SIGSYS"),
        ("breaks the interpreter", "killed by SIGSEGV"),
        ("no program at all", "SyntaxError"),
        ("reads a home", "AssertionError"),
    ],
)
def test_the_reason_names_the_limit_that_ended_the_program(name: str, reason: str, seen: dict[str, Seen]) -> None:
    """The limit of processor time or of wall time, whichever a busy machine reaches first."""
    actual = seen[name].reason
    assert actual.startswith(reason) if reason.endswith(" ") else actual == reason


def test_nothing_outside_the_sandbox_was_changed(secrets_around: tuple[Path, Path], seen: dict[str, Seen]) -> None:
    home, outside = secrets_around
    assert outside.read_text() == "unchanged"
    assert [file.name for file in home.iterdir()] == ["secret"]
    assert (home / "secret").read_text() == SECRET


def test_no_process_is_left(seen: dict[str, Seen]) -> None:
    own = {process.pid for process in psutil.Process().children(recursive=True)}  # servers of other tests among them
    left = [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if "/inside.py" in (process.info["cmdline"] or []) and (process.pid in own or process.info["ppid"] == 1)
    ]
    assert left == []
