import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from quantgate.components.sandbox.containment import START, Containment, Limits, Program
from quantgate.components.sandbox.judging_process import PATIENCE
from tests.support.contained import require_sandbox
from tests.support.hostile import ATTEMPT, FORGERIES, HOSTILE, UNSOLVED
from tests.support.hostile_run import Seen, run_here, run_in_pod

SECRET = "the-secret-of-this-machine"
SMALL = Limits(seconds=1, memory_bytes=256 << 20, output_bytes=64 << 10, scratch_bytes=4 << 20)
HONEST = "def solved(): return 'it'"
AT_ONCE = 8
MODES = {
    "bubblewrap": HOSTILE,
    "pod": HOSTILE,
    "pod without Landlock": FORGERIES,
}
"""The programs that run in each mode. What a pod without Landlock has to read, its user may read."""
CASES = [(mode, name) for mode, programs in MODES.items() for name in programs]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the hostile programs call x86-64's system calls"),
]


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
def seen(secrets_around: tuple[Path, Path]) -> dict[tuple[str, str], Seen]:
    """What was seen of each hostile program, and of a correct one at the end."""
    require_sandbox()
    home, outside = secrets_around
    programs = {
        mode: [
            Program(ATTEMPT + text.replace("@HOME@", str(home)).replace("@OUTSIDE@", str(outside)), UNSOLVED)
            for text in (*texts.values(), HONEST)
        ]
        for mode, texts in MODES.items()
    }
    with ThreadPoolExecutor() as pool:  # one program at a time, as where nothing but the judge's own lock protects it
        alone = pool.submit(run_in_pod, programs["pod without Landlock"], SMALL, 1, landlock=False)
        ended = {"bubblewrap": run_here(programs["bubblewrap"], SMALL, Containment.BUBBLEWRAP, AT_ONCE)}
        ended["pod"] = run_in_pod(programs["pod"], SMALL, AT_ONCE)
        ended["pod without Landlock"] = alone.result()
    return {
        (mode, name): one
        for mode, texts in MODES.items()
        for name, one in zip((*texts, "honest"), ended[mode], strict=True)
    }


@pytest.mark.fault(
    "programs",
    "a program changes its checker, writes verdicts to every file, or opens, limits or signals other processes",
    "it fails, on one machine and in a pod, with and without Landlock: its tests run in another process",
)
@pytest.mark.parametrize(("mode", "name"), CASES)
def test_a_hostile_program_neither_passes_nor_gains_access(
    mode: str, name: str, seen: dict[tuple[str, str], Seen]
) -> None:
    ended = seen[mode, name]
    assert ended.reason
    assert ended.output.count("refused: ") >= ("attempt(" in HOSTILE[name])
    assert "BREACH" not in ended.output
    assert SECRET not in ended.output
    assert ended.seconds < PATIENCE * SMALL.seconds + 5


@pytest.mark.parametrize("mode", MODES)
def test_a_correct_program_passes_after_the_hostile_ones(mode: str, seen: dict[tuple[str, str], Seen]) -> None:
    assert seen[mode, "honest"].reason == ""


@pytest.mark.parametrize("mode", ["bubblewrap", "pod"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("leaves with 0", "exit status 0 before its tests ended"),
        ("leaves with sys.exit", "SystemExit"),
        ("ends in the call", "exit status 0 before its tests ended"),
        ("raises the end in the call", "SystemExit"),
        ("catches what stops it", "timed out after "),
        ("loops", "timed out after "),
        ("sleeps", "timed out after 3 s"),
        ("closes every file", "timed out after "),
        ("takes all memory", "over 256 MiB of memory"),
        ("threads without end", "over 16 threads"),
        ("prints without end", "over 64 KiB of output"),
        ("forks without end", "PermissionError"),
        ("calls by x32's numbers", "killed by SIGSYS"),
        ("breaks the interpreter", "killed by SIGSEGV"),
        ("no program at all", "SyntaxError"),
        ("equals everything", "AssertionError"),
        ("is a text that equals everything", "AssertionError"),
        ("answers with a bomb", "its result is too large, or not a value"),
        ("reads a home", "NameError"),
    ],
)
def test_the_reason_names_the_limit_that_ended_the_program(
    mode: str, name: str, reason: str, seen: dict[tuple[str, str], Seen]
) -> None:
    """The limit of processor time or of wall time, whichever a busy machine reaches first."""
    actual = seen[mode, name].reason
    assert actual.startswith(reason) if reason.endswith(" ") else actual == reason


def test_the_number_of_files_is_limited_with_bubblewrap(seen: dict[tuple[str, str], Seen]) -> None:
    assert seen["bubblewrap", "takes all files"].reason == "over 1000 files"


def test_nothing_outside_the_sandbox_was_changed(
    secrets_around: tuple[Path, Path], seen: dict[tuple[str, str], Seen]
) -> None:
    home, outside = secrets_around
    assert outside.read_text() == "unchanged"
    assert [file.name for file in home.iterdir()] == ["secret"]
    assert (home / "secret").read_text() == SECRET


def test_no_process_is_left(seen: dict[tuple[str, str], Seen]) -> None:
    own = {process.pid for process in psutil.Process().children(recursive=True)}  # servers of other tests among them
    left = [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if START in (process.info["cmdline"] or []) and (process.pid in own or process.info["ppid"] == 1)
    ]
    assert left == []
