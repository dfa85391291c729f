"""The modules that nets are made of: torch.nn's, with their state_dict keys, running on convatlas ops.

A block writes `x = self.conv1(x, self.bn1, "relu")`: the convolution, its folded batch norm and its activation are one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import sqrt
from types import SimpleNamespace
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from convatlas.errors import ShapeError
from convatlas.nets.folding import FoldCache, fold
from convatlas.ops import functional as ops
from convatlas.ops.site import Site
from convatlas.specs import tf_same_padding


def channels_last(x: Tensor) -> Tensor:
    """x in channels_last memory, the kernels' fast path. Every op keeps that format, so a net converts its input only."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


_unfolded: ContextVar[bool] = ContextVar("convatlas_unfolded", default=False)


@contextmanager
def unfolded() -> Iterator[None]:
    """Inside the block convolution, batch norm, residual and activation are ops of their own, for whoever folds them himself."""
    token = _unfolded.set(True)
    try:
        yield
    finally:
        _unfolded.reset(token)


def is_traced(x: Any) -> bool:
    """Whether torch.fx traces x symbolically, so that its values and its shape are not known."""
    return isinstance(x, torch.fx.Proxy)


def folded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    eps: float,
    *geometry: Any,
    **epilogue: Any,
) -> Tensor:
    """convatlas.conv2d with a batch norm of (mean, var, weight, bias) folded into its weights: one node of a torch.fx graph."""
    names = ("running_mean", "running_var", "weight", "bias")
    weight, bias = fold(weight, bias, SimpleNamespace(eps=eps, **dict(zip(names, statistics))))
    return ops.conv2d(x, weight, bias, *geometry, **epilogue)


def same_padding(x: Tensor, kernel: Any, stride: Any, dilation: Any) -> Any:
    """TensorFlow's SAME padding for x: convatlas.specs.tf_same_padding."""
    return tf_same_padding(tuple(x.shape[-2:]), kernel, stride, dilation)


# One node each in a torch.fx graph: what they ask of a tensor's shape is asked when the graph runs.
for _name in ("channels_last", "folded_conv2d", "same_padding"):
    torch.fx.wrap(_name)


def he_normal(weight: Tensor, gain: float = sqrt(2.0)) -> None:
    """Normal numbers of standard deviation gain / sqrt(fan_in): activations keep their size through a relu (He et al. 2015)."""
    if not weight.is_meta:  # where there are no numbers to draw, and PyTorch takes milliseconds to find that out
        nn.init.normal_(weight, std=gain / sqrt(weight[0].numel()))


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d whose batch norm, activation and residual run in the convolution's own kernel.

    Args:
        tf_same: TensorFlow's SAME padding, from the size of each input (the odd pixel at the bottom and the right).
        The rest as torch.nn.Conv2d; padding_mode is "zeros".

    Raises ShapeError for another padding_mode, or for padding together with tf_same.
    """

    def __init__(self, *args: Any, tf_same: bool = False, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.tf_same = tf_same
        self._folded, self._site = FoldCache(), Site()
        if self.padding_mode != "zeros":
            raise ShapeError(f'Conv2d: padding_mode={self.padding_mode!r}, expected "zeros"')
        if tf_same and self.padding not in (0, (0, 0)):
            raise ShapeError(f"Conv2d: padding={self.padding!r} with tf_same=True, expected one of them")

    def reset_parameters(self) -> None:
        """He et al. 2015, section 2.2; biases zero."""
        he_normal(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Tensor,
        bn: nn.BatchNorm2d | None = None,
        activation: str | None = None,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """activation(bn(conv(x)) + residual).

        At inference the batch norm is folded into the weights (nets.folding) and all of it is one kernel. While bn.training, it
        normalises by the batch, which the convolution's kernel cannot know beforehand: then norm, residual and activation are an op
        of their own. A torch.nn.SyncBatchNorm normalises by the batch of all processes of its group.

        Raises ShapeError, DtypeError, BackendError as convatlas.conv2d.
        """
        if bn is not None and (bn.training or (bn._buffers.get("running_var") is None and bn.running_var is None)):
            y = batch_norm(self._convolve(x, self.weight, self.bias), bn, activation, residual)
            return y if out is None else out.copy_(y)
        if bn is not None and _unfolded.get():
            y = self._convolve(x, self.weight, self.bias)
            final = activation if residual is None else None
            y = ops.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps, activation=final)
            return y if residual is None else ops.residual_add(y, residual, activation=activation)
        if bn is not None and is_traced(x):  # the graph keeps the parameters and folds them when it runs
            statistics = bn.running_mean, bn.running_var, bn.weight, bn.bias
            geometry = self.stride, self._pads(x), self.dilation, self.groups
            return folded_conv2d(
                x,
                self.weight,
                self.bias,
                statistics,
                bn.eps,
                *geometry,
                activation=activation,
                residual=residual,
                out=out,
            )
        if bn is None:
            weight, bias = self.weight, self.bias
        else:
            weight, bias = self._folded.get(self, bn)
        return self._convolve(x, weight, bias, activation, residual, out)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, *epilogue: Any) -> Tensor:
        geometry = self.stride, self._pads(x), self.dilation, self.groups
        return self._site(ops.conv2d, (x, weight, bias), geometry, *epilogue)

    def _pads(self, x: Tensor) -> Any:
        if not self.tf_same:
            return self.padding
        return same_padding(x, self.kernel_size, self.stride, self.dilation)

    def train(self, mode: bool = True) -> Conv2d:
        """As torch.nn.Module.train. It also forgets the folded weights, so that a change made through `.data` takes effect."""
        self._folded.clear()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Conv2d:
        """What .to(), .half() and .cuda() call; it also frees the folded weights of the old dtype or device."""
        self._folded.clear()
        return super()._apply(fn, recurse)


def batch_norm(x: Tensor, bn: nn.BatchNorm2d, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
    """activation(bn(x) + residual) by convatlas.batch_norm, with torch.nn.BatchNorm2d's rules for its statistics."""
    momentum = 0.0 if bn.momentum is None else bn.momentum
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:  # the plain average of all batches
            momentum = 1.0 / float(bn.num_batches_tracked)
    training = bn.training or bn.running_mean is None
    statistics = (bn.running_mean, bn.running_var) if not training or bn.track_running_stats else (None, None)
    more = {} if residual is None else {"residual": residual}
    if training and isinstance(bn, nn.SyncBatchNorm) and torch.distributed.is_initialized():
        more["group"] = bn.process_group or torch.distributed.group.WORLD
    return ops.batch_norm(
        x, *statistics, bn.weight, bn.bias, training, momentum, bn.eps, activation=activation, **more
    )  # fmt: skip


class _Sited(nn.Module):
    """A layer that calls one op, at a site of its own."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._site = Site()


class Linear(_Sited, nn.Linear):
    """torch.nn.Linear on convatlas.linear, with a fused activation."""

    def reset_parameters(self) -> None:
        """Standard deviation 1 / sqrt(fan_in), so that outputs are as large as inputs; biases zero."""
        he_normal(self.weight, gain=1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """activation(x @ weight.T + bias). Raises ShapeError, DtypeError, BackendError."""
        return self._site(ops.linear, (x, self.weight, self.bias), (), activation)


class MaxPool2d(_Sited, nn.MaxPool2d):
    """torch.nn.MaxPool2d on convatlas.max_pool2d."""

    def forward(self, x: Tensor) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError."""
        window = self.kernel_size, self.stride, self.padding, self.dilation
        return self._site(ops.max_pool2d, (x,), (*window, self.ceil_mode, self.return_indices))


class AvgPool2d(_Sited, nn.AvgPool2d):
    """torch.nn.AvgPool2d on convatlas.avg_pool2d."""

    def forward(self, x: Tensor) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError."""
        window = self.kernel_size, self.stride, self.padding
        counted = self.ceil_mode, self.count_include_pad, self.divisor_override
        return self._site(ops.avg_pool2d, (x,), (*window, *counted))


class AdaptiveAvgPool2d(_Sited, nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d on convatlas.adaptive_avg_pool2d."""

    def forward(self, x: Tensor) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError."""
        return self._site(ops.adaptive_avg_pool2d, (x,), (self.output_size,))


class LocalResponseNorm(_Sited, nn.LocalResponseNorm):
    """torch.nn.LocalResponseNorm on convatlas.local_response_norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError."""
        return self._site(ops.local_response_norm, (x,), (self.size, self.alpha, self.beta, self.k))


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d as a kernel of its own, with a fused activation, for a batch norm that follows no convolution."""

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """activation(bn(x)), while training or without statistics of its own by the batch's.

        Raises ShapeError, DtypeError, BackendError.
        """
        return batch_norm(x, self, activation)


class ResidualAdd(_Sited):
    """activation(x + shortcut) as a kernel of its own; it has no parameters."""

    def forward(self, x: Tensor, shortcut: Tensor, activation: str | None = None) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError."""
        return self._site(ops.residual_add, (x, shortcut), (), activation)
