"""The roofline of one GPU from its published numbers: which bound a layer meets first. A prediction, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Peak rates; no kernel reaches them, so times from them are lower bounds.

    Attributes:
        name, source: of the numbers.
        tensor: FLOPs a second of the tensor cores in float16, dense.
        vector: FLOPs a second of the other units in float16, which is where depthwise convolutions run.
        bandwidth: bytes a second from DRAM.
    """

    name: str
    source: str
    tensor: float
    vector: float
    bandwidth: float

    def ridge(self, tensor: bool = True) -> float:
        """FLOPs a byte above which arithmetic, not bandwidth, is the bound (Williams, Waterman, Patterson 2009)."""
        return (self.tensor if tensor else self.vector) / self.bandwidth

    def seconds(self, flops: int, bytes: int, tensor: bool = True) -> float:
        """The least time for that work: the longer of arithmetic and traffic."""
        return max(flops / (self.tensor if tensor else self.vector), bytes / self.bandwidth)


H100 = Machine(
    "H100 SXM5",
    "NVIDIA H100 Tensor Core GPU Architecture (2022), table 2; NVIDIA H100 datasheet, 3.35 TB/s",
    tensor=989.4e12,
    vector=133.8e12,
    bandwidth=3.35e12,
)
