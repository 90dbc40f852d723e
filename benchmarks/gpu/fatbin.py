"""A CUDA library without the code for other GPUs, for carrying it to a machine with one known GPU.

A library has one fat binary for each of its sources: a header of 16 bytes, then entries, each with machine code (a
cubin) for one architecture, or PTX from which the driver makes it. The library's other bytes keep their places. The
layout is that of CUDA's fatbinary_section.h, and of the entries as cuobjdump lists them.
"""

import struct
from dataclasses import dataclass

MAGIC_NUMBER = 0xBA55ED50
MAGIC = struct.pack("<I", MAGIC_NUMBER)
HEADER = struct.Struct("<IHHQ")
"""Magic number, version, header's size, entries' size in bytes."""
ENTRY = struct.Struct("<HHIQ")
"""Kind, version, header's size, content's size in bytes."""
ARCHITECTURE_AT = 28
"""Where an entry's header has its architecture, e.g. 90."""
PTX, CUBIN = 1, 2


@dataclass(frozen=True)
class Entry:
    """The code for one architecture."""

    kind: int
    architecture: int
    content: bytes
    """With its header."""


def pruned(library: bytes, architecture: int) -> bytes:
    """The library, of the same size, with zeros in place of the code that the architecture does not use.

    Of a fat binary with code for this architecture only that code is kept, or else the newest PTX that it can use. A
    fat binary with neither is kept as it is.
    """
    content, start = bytearray(library), 0
    while (start := content.find(MAGIC, start)) >= 0:
        _, version, header_bytes, size = HEADER.unpack_from(content, start)
        begin, end = start + header_bytes, start + header_bytes + size
        if version != 1 or header_bytes != HEADER.size or end > len(content):
            start += len(MAGIC)  # the same bytes by chance
            continue
        if used := used_by(entries(bytes(content[begin:end])), architecture):
            kept = b"".join(entry.content for entry in used)
            HEADER.pack_into(content, start, MAGIC_NUMBER, version, header_bytes, len(kept))
            content[begin:end] = kept + bytes(size - len(kept))
        start = end
    return bytes(content)


def entries(content: bytes) -> list[Entry]:
    """The entries of a fat binary; raises ValueError if they do not fill it."""
    result, start = [], 0
    while start < len(content):
        kind, _, header_bytes, size = ENTRY.unpack_from(content, start)
        (architecture,) = struct.unpack_from("<I", content, start + ARCHITECTURE_AT)
        end = start + header_bytes + size
        if end > len(content):
            raise ValueError("The fat binary's entries do not fill it: its layout is not the known one.")
        result.append(Entry(kind, architecture, content[start:end]))
        start = end
    return result


def used_by(available: list[Entry], architecture: int) -> list[Entry]:
    """The entries that a GPU of this architecture uses."""
    if machine_code := [entry for entry in available if entry.kind == CUBIN and entry.architecture == architecture]:
        return machine_code
    usable = [entry for entry in available if entry.kind == PTX and entry.architecture <= architecture]
    newest = max((entry.architecture for entry in usable), default=0)
    return [entry for entry in usable if entry.architecture == newest]
