"""Read the numbers of compressed-tensors' packed weights.

The check of a checkpoint reads them by itself: with the functions that wrote them, a mistake in both would not show.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The numbers of the format E2M1 without their signs, by their lower three bits."""


def integers_in(packed: "torch.Tensor", bits: int, columns: int) -> "torch.Tensor":
    """The int8 numbers of shape (rows, columns) in words of 32 bits of shape (rows, words).

    A row's number i is its bits from i * bits on, the lowest first, less half of their range.
    """
    import torch

    row_bytes = packed.contiguous().numpy().view(np.uint8)
    row_bits = np.unpackbits(row_bytes, axis=1, count=columns * bits, bitorder="little")
    of_numbers = row_bits.reshape(len(packed), columns, bits)
    unsigned = np.bitwise_or.reduce([of_numbers[..., bit] << np.uint8(bit) for bit in range(bits)])
    return torch.from_numpy((unsigned.astype(np.int16) - (1 << (bits - 1))).astype(np.int8))


def fp4_in(packed: "torch.Tensor") -> "torch.Tensor":
    """The numbers of shape (rows, 2 * bytes) in bytes of shape (rows, bytes), each byte's lower half first."""
    import torch

    halves = torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)
    return torch.tensor([*FP4, *(-number for number in FP4)])[halves.long()]
