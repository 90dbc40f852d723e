"""Run one program that a language model wrote: the script inside the sandbox, which uses only the standard library.

    python -s -S -B -P -X utf8 inside.py CHANNEL < JOB

JOB is JSON: `program`, `key`, and the limits `seconds`, `memory_bytes`, `file_bytes`. The kernel enforces them on this
one process, and a filter refuses every system call that would start another, so that they hold for the whole program.

CHANNEL is a socket into which the owner wrote a fresh secret. This script writes READY when the limits are set, then
runs the program as a module of its own. Only after the program's last statement it reads the secret and sends it back
after the key. Until then the secret is in the kernel and the key in a frame: neither reading file descriptors nor
searching objects gives both. Two ways to cheat remain: a program that knows this file and sends the answer itself, and
one that cheats in the language, e.g. with a result that equals everything. Both falsify a score; neither can harm the
machine.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
import types

READY = b"ready\n"
RAISED = b"raised "
SECRET_BYTES = 32
PATIENCE = 3
"""A program's wall time limit, as a multiple of its processor time limit."""
OPEN_FILES = 64

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
ALLOW, KILL, REFUSE, UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
LOAD, EQUALS, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16
CLONE_THREAD = 0x00010000
X32 = 0x40000000
"""x86-64 has every call twice; the numbers of the second set begin here."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""linux/audit.h's number of the architecture, and its column in REFUSED."""

CLONE, CLONE3 = (56, 220), (435, 435)
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "socket": (41, 198),
    # Memory that RLIMIT_AS does not count.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}
"""The numbers of system calls on x86_64 and aarch64 that no program of a benchmark needs."""


def main(channel: int) -> None:
    """Run the job on standard input, write how it ended to the channel, and exit."""
    job = json.load(sys.stdin)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    die_with_parent()
    limit(job["seconds"], job["memory_bytes"], job["file_bytes"])
    key = bytes.fromhex(job["key"])
    refuse()
    read, write, leave = os.read, os.write, os._exit  # saved, because the program can replace them
    write(channel, READY)
    try:
        run(job["program"])
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit included, is its verdict
        write(channel, RAISED + type(error).__name__.encode()[:100])
        leave(1)
    write(channel, key + read(channel, SECRET_BYTES))
    leave(0)  # at once: its atexit functions do not run and its threads end


def run(text: str) -> None:
    """Execute the program as a module of its own, which is not `__main__`, as in HumanEval's harness."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv = ["program"]
    exec(compile(text, "<program>", "exec", dont_inherit=True), module.__dict__)


def limit(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Set this process's limits, which it cannot raise again."""
    # SIGXCPU comes first. The hard limit is so high that the owner's wall time stops a program that ignores SIGXCPU:
    # a SIGKILL then always has another cause.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, PATIENCE * seconds * (os.cpu_count() or 1) + 1))
    for resource_kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(resource_kind, (most, most))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse() -> None:
    """Make the kernel refuse the calls of REFUSED, and every clone that does not start a thread."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(platform.machine()))
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(text))
    control(PR_SET_NO_NEW_PRIVS, 1)
    control(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program, len(program)))


def instructions(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand) of seccomp's BPF; KeyError for another machine."""
    architecture, column = ARCHITECTURES[machine]
    program = [(LOAD, 0, 0, AT_ARCHITECTURE), (EQUALS, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    program += [(LOAD, 0, 0, AT_NUMBER), (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += [(EQUALS, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    # A filter cannot read clone3's flags. If clone3 seems missing, the C library falls back to clone.
    program += [(EQUALS, 0, 1, CLONE3[column]), (RETURN, 0, 0, UNKNOWN)]
    program += [(EQUALS, 0, 3, CLONE[column]), (LOAD, 0, 0, AT_FIRST_ARGUMENT), (HAS_BIT, 1, 0, CLONE_THREAD)]
    return [*program, (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]


def control(option: int, *values: object) -> None:
    """Call prctl(2), which takes five arguments; raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in values]
    if library.prctl(option, *arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
