"""The rates that bound a layer on one GPU, published or measured, and which of them binds first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from convatlas.errors import InputError
from convatlas.model.gpu import GPU
from convatlas.specs import Epilogue, Spec

BINDS = ("tensor", "bandwidth", "launch")


@dataclass(frozen=True)
class Ceilings:
    """Rates of one GPU.

    Attributes:
        copy_bytes_per_s: read plus written.
        matmul_flops_per_s: by mode: float16, bfloat16, tf32, float32 (IEEE).
        launch_seconds: of a kernel that does nothing to speak of, in a graph.
    """

    copy_bytes_per_s: float
    matmul_flops_per_s: Mapping[str, float]
    launch_seconds: float

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Ceilings:
        """From ceilings.json. Raises InputError where it lacks one, or has one that is no rate."""
        try:
            found = cls(*(document[name] for name in cls.__dataclass_fields__))
            rates = [found.copy_bytes_per_s, found.launch_seconds, *found.matmul_flops_per_s.values()]
        except KeyError as missing:
            raise InputError(f"the ceilings lack {missing}, expected {', '.join(cls.__dataclass_fields__)}") from None
        except (AttributeError, TypeError):
            raise InputError("the ceilings are no JSON object of rates, expected what `make gpu` wrote") from None
        if not all(isinstance(rate, (int, float)) and 0 < rate < inf for rate in rates):
            raise InputError(f"the ceilings hold {rates}, expected numbers above 0")
        return found

    @classmethod
    def published(cls, gpu: GPU) -> Ceilings:
        """From a GPU's published peaks, which no kernel reaches; nothing is published of a launch: 0."""
        tensor = {mode: rate for mode, rate in gpu.tensor.items() if rate}
        return cls(gpu.dram_bytes_per_s, {"float32": gpu.rate("float32"), **tensor}, 0.0)

    def bound(self, spec: Spec, epilogue: Epilogue | None, dtype: str, tf32: bool = False) -> tuple[float, str]:
        """(seconds, which of BINDS) below which no kernel computes the layer on this GPU.

        Tensor cores multiply what is a GEMM: linear layers and convolutions but depthwise ones. Of the other ops only the traffic
        counts; their arithmetic is far below the vector units' rate.
        """
        mode = "tf32" if dtype == "float32" and tf32 else dtype
        bytes = spec.bytes(dtype, epilogue)
        times = {
            "tensor": spec.flops / self.matmul_flops_per_s[mode] if spec.tensor_cores else 0.0,
            "bandwidth": bytes / self.copy_bytes_per_s,
            "launch": self.launch_seconds,
        }
        binds = max(BINDS, key=lambda name: times[name])
        return times[binds], binds
