"""A CPU of a test's choice, as /proc/cpuinfo describes it."""

from pathlib import Path


def cpu_with(flags: str, folder: Path) -> Path:
    """The cpuinfo of an x86 CPU with these flags, written into the folder."""
    file = folder / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n", encoding="utf-8")
    return file
