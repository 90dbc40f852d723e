"""What is read of this machine."""

from pathlib import Path

import pytest

from components.run import machine


@pytest.mark.parametrize(
    ("line", "has_bf16"),
    [("flags\t\t: fpu avx2", False), ("flags\t\t: fpu avx512_bf16", True), ("Features\t: fp bf16", True), ("", True)],
)
def test_the_cpus_data_types_are_read_from_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, has_bf16: bool
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.multiplies_16_bits(), "there is no such file, as on macOS"
    machine.CPUINFO.write_text(f"processor\t: 0\n{line}\n")
    assert machine.multiplies_16_bits() is has_bf16
