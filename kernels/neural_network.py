r"""A small dense network: its values, and on request its gradients.

``neural_network(x, w1, b1, w2, b2, ..., *, activation="tanh", cotangent=None)`` with `x` of shape (..., n0), batched
over the leading axes, and for each layer weights of shape (n_in, n_out) and a bias of shape (n_out,):
:math:`h_0 = x, z_l = h_{l-1} W_l + b_l, h_l = \phi(z_l)`; the last layer has no activation, so the result is
:math:`y = z_L` of shape (..., n_L). `activation` is "tanh" or "relu" (0 below 0, with derivative 0 at 0). All
arrays are real and have one dtype, which the result keeps. Units: the caller's; tanh takes a number without unit.

With `cotangent`, an array of the result's shape, the result is a tuple of gradients instead: those of
:math:`\sum v y` (v being `cotangent`, y the values) in x, w1, b1, w2, b2, ..., each of its operand's shape, summed over
the batch where the operand is shared. For a loss :math:`\ell(y)` pass :math:`\partial \ell / \partial y`, for mean
squares 2 (y - t) / y.size. By backpropagation: :math:`\bar z_L = v, \bar z_l = (\bar z_{l+1} W_{l+1}^T) \phi'(z_l),
\bar W_l = h_{l-1}^T \bar z_l, \bar b_l = \sum \bar z_l, \bar x = \bar z_1 W_1^T`. The torch and JAX variants are also
differentiable by their library.

Accuracy: values and each gradient within 1e-5 (single) or 2e-14 (double precision) of their largest magnitude, for
layers of up to about 1e3 units. A derivative of "relu" jumps at 0: where rounding moves a value across it, the
gradient of that unit for that sample may be left out or added. A NaN in `x` reaches all values and gradients of its
sample, and the gradients that are summed over samples.

Source: Goodfellow, Bengio and Courville, Deep Learning (2016), algorithms 6.3 (values) and 6.4 (gradients).

>>> import numpy as np
>>> w, b = np.array([[1.0], [1.0]]), np.array([0.5])
>>> OPERATION.variant("numpy").load()(np.array([[1.0, 2.0]]), w, b, np.array([[2.0]]), b, activation="relu")
array([[7.5]])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import numba_variant, torch_variants
from .checks import need_array, need_choice, need_same_dtype
from .neural_network_loops import build, load_torch, wrap

Array = np.ndarray[Any, Any]
ACTIVATIONS = ("tanh", "relu")


def _validate(x: Any, *layers: Any, activation: str = "tanh", cotangent: Any = None) -> None:
    need_array("neural_network", "x", x, dims=1)
    if not layers or len(layers) % 2:
        raise ValueError(
            f"neural_network: after x come weights and bias of each layer, in pairs; got {len(layers)} arrays"
        )
    width, arrays = x.shape[-1], {"x": x}
    for place in range(0, len(layers), 2):
        number, w, b = place // 2 + 1, layers[place], layers[place + 1]
        need_array("neural_network", f"w{number}", w, dims=2)
        need_array("neural_network", f"b{number}", b, dims=1)
        if len(w.shape) != 2 or w.shape[0] != width or tuple(b.shape) != (w.shape[1],):
            raise ValueError(
                f"neural_network: layer {number} takes {width} values, so that w{number} must have shape ({width}, n) "
                f"and b{number} (n,); got shapes {tuple(w.shape)} and {tuple(b.shape)}"
            )
        width = w.shape[1]
        arrays |= {f"w{number}": w, f"b{number}": b}
    need_choice("neural_network", "activation", activation, ACTIVATIONS)
    if cotangent is not None:
        need_array("neural_network", "cotangent", cotangent, dims=1)
        arrays["cotangent"] = cotangent
        if tuple(cotangent.shape) != (*x.shape[:-1], width):
            raise ValueError(
                f"neural_network: cotangent must have the shape of the values, {(*tuple(x.shape)[:-1], width)}; "
                f"got shape {tuple(cotangent.shape)}"
            )
    need_same_dtype("neural_network", **arrays)


def _sizes(shapes: Shapes) -> tuple[int, list[tuple[int, int]], bool]:
    """Samples, widths of each layer, and whether gradients are asked for. One shape alone is one square layer."""
    x = shapes[0] or (1,)
    layers = [(w[0], w[1]) for w in shapes[1 : len(shapes) - 1 : 2] if len(w) == 2]
    return math.prod(x[:-1]), layers or [(x[-1], x[-1])], len(shapes) > 1 and len(shapes) % 2 == 0


def _work(shapes: Shapes, _: Parameters) -> float:
    samples, layers, gradients = _sizes(shapes)
    products = sum(2.0 * a * b for a, b in layers)
    activations = sum(10.0 * b for _, b in layers[:-1])  # a hyperbolic tangent costs about ten elementary operations
    return samples * (products + activations + (2.0 * products if gradients else 0.0))


def _bytes(shapes: Shapes, _: Parameters) -> float:
    samples, layers, gradients = _sizes(shapes)
    inputs = samples * layers[0][0] + sum(a * b + b for a, b in layers)
    return 8.0 * (inputs * (2.0 if gradients else 1.0) + samples * layers[-1][1])


def _workspace(shapes: Shapes, _: Parameters) -> float:
    samples, layers, gradients = _sizes(shapes)
    return 8.0 * samples * sum(b for _, b in layers[:-1]) * (2.0 if gradients else 1.0)


def _reference(x: Array, *layers: Array, activation: str = "tanh", cotangent: Array | None = None) -> Any:
    """In extended precision where the platform has it."""
    wide = [a.astype(np.longdouble) for a in (x, *layers)]
    v = None if cotangent is None else cotangent.astype(np.longdouble)
    y = _portable(*wide, activation=activation, cotangent=v, xp=np)
    return tuple(part.astype(np.float64) for part in y) if isinstance(y, tuple) else y.astype(np.float64)


def _on_numpy(x: Array, *layers: Array, activation: str = "tanh", cotangent: Array | None = None) -> Any:
    inputs = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if cotangent is None:
        return _values(inputs, layers, activation).reshape(*x.shape[:-1], layers[-1].shape[0])
    gradients: list[Array] = []
    x_bar = np.empty(inputs.shape, x.dtype)
    _back(inputs, layers, activation, cotangent.reshape(inputs.shape[0], layers[-1].shape[0]), x_bar, gradients)
    return (x_bar.reshape(x.shape), *gradients[::-1])


def _values(h: Array, layers: Sequence[Array], activation: str) -> Array:
    """The layers one inside the other, each in a kept buffer."""
    if len(layers) == 2:
        y: Array = np.matmul(h, layers[0])
        return np.add(y, layers[1], out=y)
    with buffers.borrow((h.shape[0], layers[1].shape[0]), h.dtype) as z:
        return _values(_hidden(h, layers, activation, z), layers[2:], activation)


def _hidden(h: Array, layers: Sequence[Array], activation: str, z: Array) -> Array:
    np.matmul(h, layers[0], out=z)
    np.add(z, layers[1], out=z)
    return np.tanh(z, out=z) if activation == "tanh" else np.maximum(z, 0, out=z)


def _back(h: Array, layers: Sequence[Array], activation: str, v: Array, h_bar: Array, gradients: list[Array]) -> None:
    """Write the gradient in `h` into `h_bar`; append those in the layers, the last one first, bias before weights."""
    if len(layers) == 2:
        _through(h, layers[0], v, h_bar, gradients)
        return
    shape = (h.shape[0], layers[1].shape[0])
    with buffers.borrow(shape, h.dtype) as z, buffers.borrow(shape, h.dtype) as z_bar:
        _back(_hidden(h, layers, activation, z), layers[2:], activation, v, z_bar, gradients)
        if activation == "tanh":
            np.multiply(z, z, out=z)
            np.subtract(1, z, out=z)
            np.multiply(z_bar, z, out=z_bar)
        else:
            np.copyto(z_bar, 0, where=z <= 0)  # not multiplied by z > 0, which would hide a NaN
        _through(h, layers[0], z_bar, h_bar, gradients)


def _through(h: Array, w: Array, z_bar: Array, h_bar: Array, gradients: list[Array]) -> None:
    gradients.append(np.add.reduce(z_bar, 0))
    gradients.append(np.matmul(h.T, z_bar))
    np.matmul(z_bar, w.T, out=h_bar)


def _portable(x: Any, *layers: Any, activation: str = "tanh", cotangent: Any = None, xp: Any) -> Any:
    lead, outputs = tuple(x.shape[:-1]), layers[-1].shape[0]
    samples = math.prod(lead)
    hs = [xp.reshape(x, (samples, x.shape[-1]))]
    for w, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        z = xp.matmul(hs[-1], w) + b
        hs.append(xp.tanh(z) if activation == "tanh" else xp.where(z <= 0, xp.zeros_like(z), z))
    if cotangent is None:
        return xp.reshape(xp.matmul(hs[-1], layers[-2]) + layers[-1], (*lead, outputs))
    z_bar, gradients = xp.reshape(cotangent, (samples, outputs)), []
    for place in range(len(hs) - 1, -1, -1):
        h = hs[place]
        gradients += [xp.sum(z_bar, axis=0), xp.matmul(h.T, z_bar)]
        h_bar = xp.matmul(z_bar, layers[2 * place].T)
        if place:
            z_bar = h_bar * (1 - h * h) if activation == "tanh" else xp.where(h <= 0, xp.zeros_like(h_bar), h_bar)
    return (xp.reshape(h_bar, tuple(x.shape)), *gradients[::-1])


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    inputs = max(1, min(64, round(math.sqrt(size))))
    return _net(rng, dtype, (max(1, round(size / inputs)), inputs), 2 * inputs, 2 * inputs, 2)


def _net(
    rng: np.random.Generator,
    dtype: str,
    shape: tuple[int, ...],
    *widths: int,
    activation: str = "tanh",
    gradients: bool = False,
) -> Arguments:
    """Inputs of `shape`, and layers of these widths as one would start to train them."""
    layers, width = [], shape[-1]
    for n in widths:
        layers += [rng.standard_normal((width, n)) / math.sqrt(max(1, width)), 0.1 * rng.standard_normal(n)]
        width = n
    kwargs: dict[str, Any] = {"activation": activation}
    args = tuple(a.astype(dtype) for a in (rng.standard_normal(shape), *layers))
    if gradients:
        kwargs["cotangent"] = rng.standard_normal((*shape[:-1], width)).astype(dtype)
    return args, kwargs


def _columns(rng: np.random.Generator, dtype: str) -> Arguments:
    args, kwargs = _net(rng, dtype, (12, 5), 9, 4, gradients=True)
    return tuple(np.asfortranarray(a) for a in args), kwargs


X, W, B, V = np.ones((3, 2)), np.ones((2, 4)), np.ones(4), np.ones((3, 4))
OPERATION = Kernel(
    name="neural_network",
    summary="a small dense network: values, or gradients for a cotangent",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, workspace=_workspace),
        numba_variant("numba", build, wrap, reorder=True, workspace=_workspace),
        numba_variant("numba/parallel", build, wrap, reorder=True, workspace=_workspace),
        *torch_variants("torch", load_torch, workspace=_workspace),
        Variant("torch/1-thread", "torch", load_torch, threads=1, gradients=True, workspace=_workspace),
    ),
    portable=Portable(_portable, static=("activation",), workspace=_workspace),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 1e-5, "float64": 2e-14},
    sample=_sample,
    cases={
        "relu": lambda rng, dtype: _net(rng, dtype, (40, 3), 16, 16, 2, activation="relu"),
        "one layer": lambda rng, dtype: _net(rng, dtype, (7, 3), 5),
        "one sample": lambda rng, dtype: _net(rng, dtype, (3,), 8, 5),
        "batched twice": lambda rng, dtype: _net(rng, dtype, (3, 4, 5), 8, 6),
        "gradients": lambda rng, dtype: _net(rng, dtype, (70, 5), 33, 17, 2, gradients=True),
        "gradients of relu": lambda rng, dtype: _net(rng, dtype, (40, 3), 16, 8, 2, activation="relu", gradients=True),
        "gradients of one layer": lambda rng, dtype: _net(rng, dtype, (2, 3, 4), 5, gradients=True),
        "gradients, column order": _columns,
        "empty batch": lambda rng, dtype: _net(rng, dtype, (0, 3), 4, 2),
        "gradients of an empty batch": lambda rng, dtype: _net(rng, dtype, (0, 3), 4, 2, gradients=True),
        "no inputs": lambda rng, dtype: _net(rng, dtype, (3, 0), 4, 2, gradients=True),
        "size one": lambda rng, dtype: _net(rng, dtype, (1, 1), 1, 1),
    },
    validate=_validate,
    wrong=(
        ((X, W), {}, ValueError, "weights and bias of each layer, in pairs; got 1 arrays"),
        ((X,), {}, ValueError, "got 0 arrays"),
        ((X, W.T, B), {}, ValueError, r"w1 must have shape \(2, n\) and b1 \(n,\); got shapes \(4, 2\) and \(4,\)"),
        ((X, W, B, W, B), {}, ValueError, r"layer 2 takes 4 values"),
        ((X, W, B[:3]), {}, ValueError, r"got shapes \(2, 4\) and \(3,\)"),
        ((X, W, B), {"activation": "sigmoid"}, ValueError, "one of 'tanh', 'relu'; got 'sigmoid'"),
        ((X, W, B), {"cotangent": V.T}, ValueError, r"shape of the values, \(3, 4\); got shape \(4, 3\)"),
        ((X, W, B), {"cotangent": V.astype("float32")}, TypeError, "b1 float64, cotangent float32"),
        ((X, W.astype(int), B), {}, TypeError, "w1 must have dtype float32 or float64; got int64"),
    ),
)
