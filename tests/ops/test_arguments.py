"""Every argument of every op, given what it should not be: the right answer or one clear line, never an odd error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import convatlas
from convatlas import specs
from convatlas.ops.functional import concat
from convatlas.reference.evaluate import evaluate
from convatlas.reference.truth import truth

X = torch.randn(1, 4, 6, 6)
C = torch.rand(4) + 0.5
# By op: arguments that are right. Each is replaced, in turn, by everything in WRONG.
CALLS: dict[str, dict[str, Any]] = {
    "conv2d": dict(
        input=X, weight=torch.randn(4, 4, 3, 3), bias=C, stride=1, padding=1, dilation=1, groups=1, activation="relu",
        residual=X, out=torch.zeros(1, 4, 6, 6), backend="numpy",
    ),
    "conv2d_input_grad": dict(
        grad_output=X, weight=torch.randn(4, 4, 3, 3), input_size=(1, 4, 6, 6), stride=1, padding=1, dilation=1, groups=1,
        out=torch.zeros(1, 4, 6, 6), backend="numpy",
    ),
    "conv2d_weight_grad": dict(
        grad_output=X, input=X, weight_size=(4, 4, 3, 3), stride=1, padding=1, dilation=1, groups=1, bias_grad=False,
        out=torch.zeros(4, 4, 3, 3), backend="numpy",
    ),
    "conv_transpose2d": dict(
        input=X, weight=torch.randn(4, 4, 3, 3), bias=C, stride=1, padding=1, output_padding=0, groups=1, dilation=1,
        activation="relu", out=torch.zeros(1, 4, 6, 6), backend="numpy",
    ),
    "linear": dict(input=X, weight=torch.randn(6, 6), bias=None, activation=None, out=None, backend=None),
    "max_pool2d": dict(
        input=X, kernel_size=3, stride=1, padding=1, dilation=1, ceil_mode=False, return_indices=False, out=None, backend=None
    ),
    "avg_pool2d": dict(
        input=X, kernel_size=3, stride=1, padding=1, ceil_mode=False, count_include_pad=True, divisor_override=2, out=None,
        backend=None,
    ),
    "adaptive_avg_pool2d": dict(input=X, output_size=2, out=None, backend=None),
    "adaptive_max_pool2d": dict(input=X, output_size=2, return_indices=False, out=None, backend=None),
    "channel_scale": dict(
        x=X, scale=C.view(1, 4, 1, 1), gate="sigmoid", activation=None, residual=X, out=torch.zeros(1, 4, 6, 6), backend=None
    ),
    "residual_add": dict(x=X, shortcut=X, activation=None, out=None, backend=None),
    "batch_norm": dict(
        input=X, running_mean=C, running_var=C, weight=C, bias=C, training=False, momentum=0.1, eps=1e-5, activation=None,
        residual=X, group=None, out=None, backend=None,
    ),
    "local_response_norm": dict(input=X, size=3, alpha=1e-4, beta=0.75, k=1.0, out=None, backend=None),
    "softmax": dict(input=X, dim=1, out=None, backend=None),
    "relu": dict(input=X, out=None, backend=None),
    "relu6": dict(input=X, out=None, backend=None),
    "leaky_relu": dict(input=X, negative_slope=0.2, out=None, backend=None),
    "silu": dict(input=X, out=None, backend=None),
    "concat": dict(tensors=[X, X], dim=1, out=None, backend=None),
}  # fmt: skip
WRONG: dict[str, Any] = {
    "None": None, "True": True, "0": 0, "-1": -1, "1.5": 1.5, "nan": float("nan"), "inf": float("inf"), "2**31": 2**31,
    "2**63": 2**63, "10**400": 10**400, "str": "gelu", "empty str": "", "bytes": b"relu",
    "list": [1], "empty list": [], "pair": (1, 2),
    "pair of str": ("a", "b"), "triple": (1, 2, 3), "nested": ((0, 1), (1, 0)), "deep": (((1,),),), "dict": {"a": 1},
    "set": {1, 2}, "object": object(), "type": int, "complex": 1j, "np.int64": np.int64(1), "np.uint8": np.uint8(255),
    "np.float32": np.float32(1.5), "np.bool": np.True_, "array": np.arange(3), "array of str": np.array(["relu", "x"]),
    "tensor(1)": torch.tensor(1), "tensor(1.5)": torch.tensor(1.5), "tensor(True)": torch.tensor(True),
    "empty": torch.zeros(0), "vector": torch.zeros(3), "ints": torch.zeros(1, 4, 6, 6, dtype=torch.int64),
    "complex tensor": torch.zeros(1, 4, 6, 6, dtype=torch.complex64), "half": X.half(), "meta": X.to("meta"),
    "6-D": torch.zeros(1, 1, 1, 1, 2, 2), "sparse": X.to_sparse(), "csr": torch.eye(6).to_sparse_csr(),
    "mkldnn": X.to_mkldnn() if torch.backends.mkldnn.is_available() else None,
    "nested tensor": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    "list of tensor": [X],
}  # fmt: skip


SAID = ("expect", "fits", "more than", "not one of")
LARGE = ("2**31", "2**63", "10**400", "inf")


def on_meta(value: Any) -> Any:
    if isinstance(value, list):
        return [on_meta(v) for v in value]
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", CALLS)
def test_every_argument_is_right_or_refused_in_one_line(op: str) -> None:
    getattr(convatlas, op)(**CALLS[op])
    odd = []
    for name in CALLS[op]:
        for label, value in WRONG.items():
            try:
                with torch.no_grad():
                    call = {**CALLS[op], name: value}
                    if label in LARGE:  # nothing that large is computed
                        call = {k: on_meta(v) for k, v in call.items()}
                    getattr(convatlas, op)(**call)
            except convatlas.ConvAtlasError as error:
                text = str(error)
                if "\n" in text or len(text) > 300 or not any(word in text for word in SAID):
                    odd.append(f"{op}({name}={label}): {error}")
            except Exception as error:
                odd.append(f"{op}({name}={label}): {type(error).__name__}: {str(error)[:100]}")
    assert not odd, "\n".join(odd)


SPECS = {
    "conv2d": (specs.Conv2dSpec.of, dict(input=(1, 4, 6, 6), weight=(4, 4, 3, 3), stride=1, padding=1, dilation=1, groups=1)),
    "conv2d_input_grad": (
        specs.Conv2dInputGradSpec.of,
        dict(
            grad_output=(1, 4, 6, 6), weight=(4, 4, 3, 3), input_size=(1, 4, 6, 6), stride=1, padding=1, dilation=1, groups=1,
        ),
    ),
    "conv2d_weight_grad": (
        specs.Conv2dWeightGradSpec.of,
        dict(
            grad_output=(1, 4, 6, 6), input=(1, 4, 6, 6), weight_size=(4, 4, 3, 3), stride=1, padding=1, dilation=1, groups=1,
        ),
    ),
    "conv_transpose2d": (
        specs.ConvTranspose2dSpec.of,
        dict(
            input=(1, 4, 6, 6), weight=(4, 4, 3, 3), stride=1, padding=1, output_padding=0, groups=1, dilation=1,
        ),
    ),
    "pool": (
        specs.Pool2dSpec.of,
        dict(
            kind="max", input=(1, 4, 6, 6), kernel_size=3, stride=1, padding=1, dilation=1, ceil_mode=False,
            count_include_pad=True, divisor_override=None,
        ),
    ),
    "adaptive": (specs.AdaptivePool2dSpec.of, dict(input=(1, 4, 6, 6), output_size=2)),
    "linear": (specs.LinearSpec.of, dict(input=(2, 6), weight=(3, 6))),
    "residual_add": (specs.ResidualAddSpec.of, dict(input=(2, 6), shortcut=(2, 6))),
    "norm": (specs.NormSpec.of, dict(input=(2, 6), eps=1e-5, running_mean=(6,))),
    "lrn": (specs.LocalResponseNormSpec.of, dict(input=(2, 6, 3), size=3)),
    "elementwise": (specs.ElementwiseSpec, dict(op="relu", shape=(2, 3))),
    "concat": (specs.ConcatSpec.of, dict(shapes=[(2, 3), (2, 4)], dim=1)),
    "epilogue": (specs.Epilogue, dict(activation="relu", bias=True, residual=False)),
    "tf_same": (specs.tf_same_padding, dict(size=(6, 6), kernel=3, stride=1, dilation=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_every_argument_of_a_spec_is_right_or_refused_in_one_line(name: str) -> None:
    make, right = SPECS[name]
    make(**right)
    odd = []
    for argument in right:
        for label, value in WRONG.items():
            try:
                made = make(**{**right, argument: value})
                if isinstance(made, specs.Spec):
                    assert all(n >= 0 for n in made.output_shape), "a spec of nothing"
            except convatlas.ConvAtlasError as error:
                if "\n" in str(error) or len(str(error)) > 300:
                    odd.append(f"{name}({argument}={label}): {error}")
            except Exception as error:
                odd.append(f"{name}({argument}={label}): {type(error).__name__}: {str(error)[:100]}")
    assert not odd, "\n".join(odd)


def test_unknown_names_are_called_unknown_and_the_known_ones_listed() -> None:
    x = torch.zeros(1, 4, 6, 6)
    for call in (
        lambda: convatlas.conv2d(x, torch.zeros(4, 4, 1, 1), activation="gelu"),
        lambda: convatlas.linear(x, torch.zeros(4, 6), activation="gelu"),
        lambda: specs.Epilogue(activation="gelu"),
    ):
        with pytest.raises(
            convatlas.ArgumentError, match="unknown activation 'gelu', expected one of None, relu, relu6"
        ):
            call()
    with pytest.raises(convatlas.ArgumentError, match="unknown kind of pooling 'median', expected one of max, avg"):
        specs.Pool2dSpec.of("median", (1, 4, 6, 6), 2)


def test_integers_of_other_kinds_are_integers() -> None:
    """As torch takes them: NumPy's, whose uint8 would overflow if it were kept, and tensors of one integer."""
    w = torch.randn(2, 4, 3, 3)
    expected = convatlas.conv2d(X, w, stride=2, padding=1)
    for two in (np.int64(2), np.uint8(2), torch.tensor(2)):
        assert torch.equal(convatlas.conv2d(X, w, stride=(two, two), padding=np.uint8(1)), expected)
    assert specs.Conv2dSpec.of((1, 4, 300, 300), (2, 4, 3, 3), padding=np.uint8(200)).P == 698


@pytest.mark.parametrize("stride", [0, -1, 1.5, (1, 0)])
def test_tf_same_padding_refuses_a_stride_that_is_none(stride: Any) -> None:
    with pytest.raises(convatlas.ShapeError, match="tf_same_padding: stride="):
        specs.tf_same_padding((6, 6), 3, stride)


@pytest.mark.parametrize("function", [truth, evaluate])
def test_the_reference_refuses_operands_and_parameters_that_it_does_not_know(function: Any) -> None:
    spec, x, w = specs.Conv2dSpec.of((1, 4, 6, 6), (2, 4, 3, 3)), np.zeros((1, 4, 6, 6)), np.zeros((2, 4, 3, 3))
    for arrays in ({"input": x, "weight": w, "bais": np.zeros(2)}, {"input": x}, {}):
        with pytest.raises(
            convatlas.ArgumentError, match=r"conv2d: arrays .* expected input, weight, and if need be bias, residual"
        ):
            function("conv2d", spec, None, arrays)
    norm = specs.LocalResponseNormSpec.of((1, 4, 6, 6), 3)
    with pytest.raises(convatlas.ArgumentError, match="params alhpa, expected alpha or beta or k"):
        function("local_response_norm", norm, None, {"input": x}, {"alhpa": 1.0})
    both = specs.ConcatSpec.of([(2, 3), (2, 3)], 1)
    with pytest.raises(convatlas.ArgumentError, match="concat: arrays 0, expected 0, 1"):
        function("concat", both, None, {"0": np.zeros((2, 3))})


def test_messages_are_short_whatever_was_given() -> None:
    with pytest.raises(convatlas.ShapeError) as raised:
        concat("x" * 1000)
    assert len(str(raised.value)) < 200
