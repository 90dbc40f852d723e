"""Let this process open only the system's files and its own scratch folder: Landlock, in Linux since 5.13.

The programs of a pod run as one user. Landlock hides this user's other files, and /proc. A confined process also opens
no process that is not confined with it, and (since Landlock 6) sends no signal to one. Source: landlock(7).
"""

import ctypes
import os
import stat
import struct
import sys

from quantgate.components.sandbox.refused_calls import PR_SET_NO_NEW_PRIVS, control

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, BENEATH = 1, 1
READ, DEVICE = 0b1101, 0b110
"""Execute, read a file, read a folder; write and read a file."""
FILE_ONLY = 0b111
RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights there are to files, by the first version of Landlock with so many."""
SCOPES_SINCE, ALL_SCOPES = 6, 0b11
SYSTEM = ("/lib", "/lib32", "/lib64", "/bin")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def confine_files(scratch: str) -> None:
    """Confine this process, where the kernel can; elsewhere a program can read what the pod's user can."""
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    if version < 1:
        return
    everything = (1 << next(count for first, count in reversed(RIGHTS.items()) if version >= first)) - 1
    # struct landlock_ruleset_attr: rights to files, rights to the network, scopes
    attributes = struct.pack("=QQQ", everything, 0, ALL_SCOPES)[: 24 if version >= SCOPES_SINCE else 8]
    ruleset = checked(library.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    readable = ("/usr", *SYSTEM, "/etc/ld.so.cache", os.path.realpath(sys.base_prefix))
    rules = {**dict.fromkeys(readable, READ), **dict.fromkeys(DEVICES, DEVICE), scratch: everything}
    for path, rights in rules.items():
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
        rule = struct.pack("=Qi", rights if is_folder else rights & FILE_ONLY, file)
        checked(library.syscall(ADD_RULE, ruleset, BENEATH, rule, 0))
        os.close(file)
    control(PR_SET_NO_NEW_PRIVS, 1)
    checked(library.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def checked(result: int) -> int:
    """The result of a system call; raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return result
