"""The roofline of one GPU from its published numbers: which bound a layer meets first. A prediction, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from convatlas.model.gpu import gpu


@dataclass(frozen=True)
class Machine:
    """Peak rates; no kernel reaches them, so times from them are lower bounds.

    Attributes:
        name: the GPU's.
        source: where the numbers come from.
        tensor: FLOPs a second of the tensor cores in float16, dense.
        vector: FLOPs a second of the other units in float16, which is where depthwise convolutions run.
        bandwidth: bytes a second from DRAM.
    """

    name: str
    source: str
    tensor: float
    vector: float
    bandwidth: float

    @classmethod
    def of(cls, name: str) -> Machine:
        """The rates of a known GPU (model/gpus.json)."""
        one = gpu(name)
        sources = dict.fromkeys(one.source(attribute) for attribute in ("tensor", "vector", "dram_bytes_per_s"))
        rates = one.rate("float16"), one.rate("float16", tensor=False), one.dram_bytes_per_s
        return cls(one.title, "; ".join(sources), *rates)

    def ridge(self, tensor: bool = True) -> float:
        """FLOPs a byte above which arithmetic, not bandwidth, is the bound (Williams, Waterman, Patterson 2009)."""
        return (self.tensor if tensor else self.vector) / self.bandwidth

    def seconds(self, flops: int, bytes: int, tensor: bool = True) -> float:
        """The least time for that work: the longer of arithmetic and traffic."""
        return max(flops / (self.tensor if tensor else self.vector), bytes / self.bandwidth)


H100, A100, H200, B200 = map(Machine.of, ("h100-sxm", "a100-80", "h200", "b200"))
MACHINES = (A100, H100, H200, B200)
