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

A100 = Machine(
    "A100 SXM4 80GB",
    "NVIDIA A100 Tensor Core GPU Architecture (2020), table 1; NVIDIA A100 datasheet, 2,039 GB/s",
    tensor=312e12,
    vector=78e12,
    bandwidth=2.039e12,
)
# The H100's chip with faster memory.
H200 = Machine(
    "H200 SXM",
    "NVIDIA H200 Tensor Core GPU datasheet (2024): 1,979 TFLOPS with sparsity, half of it dense; 4.8 TB/s",
    tensor=989.4e12,
    vector=133.8e12,
    bandwidth=4.8e12,
)
B200 = Machine(
    "B200 SXM",
    "NVIDIA Blackwell Architecture Technical Brief (2024), HGX B200: FP16 4.5 PFLOPS with sparsity, half of it dense; FP32 80 "
    "TFLOPS, of which FP16 is taken to be twice, as on the H100; 8 TB/s",
    tensor=2.25e15,
    vector=160e12,
    bandwidth=8e12,
)
MACHINES = (A100, H100, H200, B200)
