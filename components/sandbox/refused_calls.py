"""The system calls that no process in the sandbox may make, as a seccomp filter of the kernel."""

import ctypes
import errno
import os
import struct

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
ALLOW, KILL, REFUSE, UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
LOAD, EQUALS, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT, AT_SECOND_ARGUMENT = 0, 4, 16, 24
CLONE_THREAD = 0x00010000
X32 = 0x40000000
"""x86-64 has every call twice; the numbers of the second set begin here."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""linux/audit.h's number of the architecture, and its column in REFUSED."""

CLONE, CLONE3, PRLIMIT = (56, 220), (435, 435), (302, 261)
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
    # What acts on another process of the same user.
    "pidfd_open": (434, 434),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}
"""The numbers of system calls on x86_64 and aarch64 that no program of a benchmark needs."""

REFUSED_COMMANDS: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    # The kernel then sends a signal to the process that they name: F_SETOWN, F_SETSIG, F_SETOWN_EX.
    "fcntl": ((72, 25), AT_SECOND_ARGUMENT, (8, 10, 15)),
    # FIOSETOWN, SIOCSPGRP, FIOASYNC; TIOCSTI types into a terminal.
    "ioctl": ((16, 29), AT_SECOND_ARGUMENT, (0x8901, 0x8902, 0x5452, 0x5412)),
    "prctl": ((157, 167), AT_FIRST_ARGUMENT, (PR_SET_PDEATHSIG,)),
}
"""Calls that are refused only with these values of one argument."""


def refuse() -> None:
    """Make the kernel refuse these calls, limits of other processes, and every clone that does not start a thread."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(os.uname().machine))
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
    for call, place, commands in REFUSED_COMMANDS.values():
        program += [(EQUALS, 0, 2 + 2 * len(commands), call[column]), (LOAD, 0, 0, place)]
        for command in commands:
            program += [(EQUALS, 0, 1, command), (RETURN, 0, 0, REFUSE)]
        program += [(RETURN, 0, 0, ALLOW)]
    # prlimit of process 0 is that of the caller.
    program += [(EQUALS, 0, 4, PRLIMIT[column]), (LOAD, 0, 0, AT_FIRST_ARGUMENT), (EQUALS, 1, 0, 0)]
    program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
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
