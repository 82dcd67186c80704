"""Cost of a layer or a network: integers, for one sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs.

    Attributes:
        params: Number of stored parameters (buffers not counted).
        macs: Multiply-accumulate operations of convolutions and linear layers at batch 1, bias
            excluded.
        bits: Bits that the parameters take as stored (32 per parameter unless quantized).
        nanoseconds: Time of the convolutions and linear layers in a runtime; 0 where no clock was
            asked.
    """

    params: int = 0
    macs: int = 0
    bits: int = 0
    nanoseconds: int = 0

    @property
    def float_bytes(self) -> int:
        """Bytes of the parameters as float32, 4 each: what sizes are compared with."""
        return 4 * self.params

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.bits + other.bits,
            self.nanoseconds + other.nanoseconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.params - other.params,
            self.macs - other.macs,
            self.bits - other.bits,
            self.nanoseconds - other.nanoseconds,
        )
