"""Removing other GPUs' code from a CUDA library."""

import struct

import pytest

from benchmarks.gpu.fatbin import CUBIN, HEADER, MAGIC, MAGIC_NUMBER, PTX, entries, pruned


def entry(kind: int, architecture: int, content: bytes) -> bytes:
    header = struct.pack("<HHIQ", kind, 0x101, 64, len(content)) + struct.pack("<IIHHI", 0, 0, 0, 0, architecture)
    return header.ljust(64, b"\0") + content


def fat_binary(*packed: bytes) -> bytes:
    content = b"".join(packed)
    return HEADER.pack(MAGIC_NUMBER, 1, HEADER.size, len(content)) + content


def architectures(library: bytes, start: int = 0) -> list[tuple[int, int, bytes]]:
    position = library.index(MAGIC, start)
    size = HEADER.unpack_from(library, position)[3]
    unpacked = entries(library[position + HEADER.size : position + HEADER.size + size])
    return [(entry_.kind, entry_.architecture, entry_.content[64:]) for entry_ in unpacked]


def test_code_for_the_architecture_replaces_all_other() -> None:
    library = b"before" + fat_binary(entry(CUBIN, 80, b"old"), entry(PTX, 80, b"text"), entry(CUBIN, 90, b"mine"))
    smaller = pruned(library + b"after", 90)
    assert architectures(smaller) == [(CUBIN, 90, b"mine")]
    assert len(smaller) == len(library + b"after")
    assert smaller.startswith(b"before")
    assert smaller.endswith(b"after")
    assert b"old" not in smaller
    assert b"text" not in smaller


def test_without_machine_code_the_newest_usable_ptx_is_kept() -> None:
    library = fat_binary(entry(PTX, 75, b"older"), entry(PTX, 80, b"text"), entry(PTX, 100, b"newer"))
    assert architectures(pruned(library, 90)) == [(PTX, 80, b"text")]


def test_code_for_other_gpus_only_stays() -> None:
    library = fat_binary(entry(CUBIN, 120, b"blackwell"))
    assert pruned(library, 90) == library


def test_every_fat_binary_is_pruned_and_chance_bytes_are_left() -> None:
    both = fat_binary(entry(CUBIN, 80, b"a"), entry(CUBIN, 90, b"b"))
    smaller = pruned(MAGIC + b"no header" + both + b"between" + both, 90)
    assert smaller.count(b"between") == 1
    first = smaller.index(MAGIC, 1)
    assert architectures(smaller, first) == [(CUBIN, 90, b"b")] == architectures(smaller, smaller.index(b"between"))


def test_an_unknown_layout_is_refused() -> None:
    broken = struct.pack("<HHIQ", CUBIN, 0x101, 64, 1000).ljust(64, b"\0")
    with pytest.raises(ValueError, match="layout is not the known one"):
        pruned(fat_binary(broken), 90)
