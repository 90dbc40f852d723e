"""What is read of this machine."""

import ast
from pathlib import Path

import pytest

from quantgate.components.run import machine
from quantgate.components.servers import local_vllm


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


def test_vllms_plugin_which_cannot_import_this_project_knows_the_same_instructions() -> None:
    source = Path(local_vllm.__file__).with_name("vllm_plugin") / "quantgate_vllm.py"
    assignments = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
    (flags,) = [node.value for node in assignments if ast.unparse(node.targets[0]) == "BF16_FLAGS"]
    assert isinstance(flags, ast.Call)
    assert ast.literal_eval(flags.args[0]) == machine.BF16_FLAGS
