"""The numbers that compressed-tensors packs, read by the check's own functions."""

import pytest
import torch

from quantgate.components.quantize.packed import fp4_in, integers_in

pytestmark = pytest.mark.slow  # imports compressed-tensors


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("columns", [64, 101])
def test_integers_are_read_as_they_were_packed(bits: int, columns: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    half = 1 << (bits - 1)
    numbers = torch.randint(-half, half, (7, columns), generator=torch.manual_seed(bits)).to(torch.int8)
    numbers[0, :2] = torch.tensor([-half, half - 1])
    assert torch.equal(integers_in(pack_to_int32(numbers, bits), bits, columns), numbers)
    by_column = pack_to_int32(numbers, bits, packed_dim=0)
    assert torch.equal(integers_in(by_column.T, bits, 7).T, numbers)


def test_each_number_of_four_bits_is_read_as_it_was_packed() -> None:
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    packed = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    expected = unpack_fp4_from_uint8(packed, 16, 32, torch.float32)
    assert torch.equal(fp4_in(packed), expected)
    assert torch.equal(fp4_in(packed).signbit(), expected.signbit())
