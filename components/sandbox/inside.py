"""Run one program that a language model wrote: the script that stands inside the sandbox, with nothing but stdlib.

    python -s -S -B -P -X utf8 inside.py CHANNEL < JOB

JOB is JSON: `program`, `key`, and the limits `seconds`, `memory_bytes`, `file_bytes`. The kernel enforces them on this
one process, and a filter refuses every system call that would start another, so that they hold for the whole program.

CHANNEL is a socket that the owner put a fresh secret into. READY is written when all is set; then the program runs
as a module of its own; when its last statement was reached, and only then, the secret is read and sent back after the
key. Until then the secret is in the kernel and the key in a frame: neither reading file descriptors nor looking
through objects gives both. What remains possible is a program that knows this file and answers itself, and one that
cheats in the language, as with a result that equals everything. Such a program harms a score, never the machine.
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
"""How many times as long as its processor time a program has on its owner's clock."""
OPEN_FILES = 64

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
ALLOW, KILL, REFUSE, UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
LOAD, EQUALS, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16
CLONE_THREAD = 0x00010000
X32 = 0x40000000
"""x86-64 has every call twice; the second half begins here."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""linux/audit.h's name of the machine, and its column of REFUSED."""

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
    """Run the job on standard input, tell the channel how it ended and leave."""
    job = json.load(sys.stdin)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    die_with_parent()
    limit(job["seconds"], job["memory_bytes"], job["file_bytes"])
    key = bytes.fromhex(job["key"])
    refuse()
    read, write, leave = os.read, os.write, os._exit  # as they are before the program may replace them
    write(channel, READY)
    try:
        run(job["program"])
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit included, is its verdict
        write(channel, RAISED + type(error).__name__.encode()[:100])
        leave(1)
    write(channel, key + read(channel, SECRET_BYTES))
    leave(0)  # at once: what it registered with atexit and the threads it left behind do not run on


def run(text: str) -> None:
    """Execute the program as a module of its own; as in HumanEval's harness it is not `__main__`."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv = ["program"]
    exec(compile(text, "<program>", "exec", dont_inherit=True), module.__dict__)


def limit(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Set this process's limits, which it cannot raise again."""
    # SIGXCPU comes first; a program that ignores it is left to its owner's clock, so that SIGKILL means something else.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, PATIENCE * seconds * (os.cpu_count() or 1) + 1))
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse() -> None:
    """Have the kernel refuse the calls of REFUSED, and every clone that is no thread, until this process ends."""
    code = b"".join(struct.pack("=HBBI", *each) for each in instructions(platform.machine()))
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(text))
    control(PR_SET_NO_NEW_PRIVS, 1)
    control(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program, len(program)))


def instructions(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand) of seccomp's BPF; KeyError for another machine."""
    architecture, column = ARCHITECTURES[machine]
    found = [(LOAD, 0, 0, AT_ARCHITECTURE), (EQUALS, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    found += [(LOAD, 0, 0, AT_NUMBER), (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            found += [(EQUALS, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    # A filter cannot read clone3's flags; told that there is no such call, the C library takes clone.
    found += [(EQUALS, 0, 1, CLONE3[column]), (RETURN, 0, 0, UNKNOWN)]
    found += [(EQUALS, 0, 3, CLONE[column]), (LOAD, 0, 0, AT_FIRST_ARGUMENT), (HAS_BIT, 1, 0, CLONE_THREAD)]
    return [*found, (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]


def control(option: int, *values: object) -> None:
    """prctl(2), which takes five words; raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in values]
    if library.prctl(option, *words, *[ctypes.c_ulong(0)] * (4 - len(words))):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
