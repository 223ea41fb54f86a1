"""A dense network sample by sample, compiled by Numba, and in torch: variants of `neural_network` (contract there).

The compiled ones win where networks and batches are so small that the calls of NumPy cost more than the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..executors import buffers
from .binding import in_rows

Array = np.ndarray[Any, Any]


def build(span: Any) -> Callable[..., Any]:
    """Values, sample by sample, shared out among threads if any; then gradients where a cotangent is given, on one.

    One function and no helpers: a closure over another compiled function is compiled afresh in every process.
    """

    def network(hs: Any, ws: Any, bs: Any, tanh: bool, v: Any, x_bar: Any, ws_bar: Any, bs_bar: Any) -> None:
        depth = len(ws)
        for i in span(hs[0].shape[0]):
            for place in range(depth):
                w, b, h, z = ws[place], bs[place], hs[place][i], hs[place + 1][i]
                for j in range(z.size):
                    z[j] = b[j]
                fours = h.size // 4 * 4
                for k in range(0, fours, 4):  # four inputs to a pass over the outputs
                    # rows, as indices from `range` are known not to be negative and so vectorise
                    w0, w1, w2, w3 = w[k], w[k + 1], w[k + 2], w[k + 3]
                    h0, h1, h2, h3 = h[k], h[k + 1], h[k + 2], h[k + 3]
                    for j in range(z.size):
                        z[j] += (h0 * w0[j] + h1 * w1[j]) + (h2 * w2[j] + h3 * w3[j])
                for k in range(fours, h.size):
                    w0, h0 = w[k], h[k]
                    for j in range(z.size):
                        z[j] += h0 * w0[j]
                if place < depth - 1:
                    if tanh:
                        for j in range(z.size):
                            z[j] = math.tanh(z[j])
                    else:
                        for j in range(z.size):
                            if z[j] <= 0:  # a NaN is not, and stays
                                z[j] = 0
        widest = 1
        for h_all in hs:
            widest = max(widest, h_all.shape[1])
        here, there = np.empty(widest, v.dtype), np.empty(widest, v.dtype)
        for i in range(v.shape[0]):
            here[: v.shape[1]] = v[i]
            for back in range(depth):
                place = depth - 1 - back
                w, w_bar, b_bar, h = ws[place], ws_bar[place], bs_bar[place], hs[place][i]
                z_bar, h_bar = here[: w.shape[1]], there[: w.shape[0]]
                for j in range(z_bar.size):
                    b_bar[j] += z_bar[j]
                for k in range(h.size):
                    row, row_bar = w[k], w_bar[k]
                    h0, total = h[k], v.dtype.type(0)
                    for j in range(z_bar.size):
                        row_bar[j] += h0 * z_bar[j]
                        total += row[j] * z_bar[j]
                    h_bar[k] = total
                if place > 0:
                    for k in range(h.size):
                        if tanh:
                            h_bar[k] *= 1 - h[k] * h[k]
                        elif h[k] <= 0:
                            h_bar[k] = 0
                    here, there = there, here
                else:
                    x_bar[i] = h_bar

    return network


def _plain(a: Array) -> Array:
    """`a` contiguous and writable: to Numba a read-only array has a type of its own, and a tuple needs one type."""
    return a if a.flags.carray else np.array(a, order="C")


def wrap(compiled: Any) -> Callable[..., Any]:
    """Put shapes around the loops, and make what they write to."""

    def network(x: Array, *layers: Array, activation: str = "tanh", cotangent: Array | None = None) -> Any:
        inputs, outputs = in_rows(_plain(x)), layers[-1].shape[0]
        ws, bs = tuple(map(_plain, layers[::2])), tuple(map(_plain, layers[1::2]))
        tanh, samples = activation == "tanh", inputs.shape[0]
        y = np.empty((samples, outputs), x.dtype)
        with ExitStack() as kept:
            hidden = [kept.enter_context(buffers.borrow((samples, b.size), x.dtype)) for b in bs[:-1]]
            hs = (inputs, *hidden, y)
            if cotangent is None:
                compiled(hs, ws, bs, tanh, y[:0], y[:0], ws, bs)
                return y.reshape(*x.shape[:-1], outputs)
            x_bar = np.empty(inputs.shape, x.dtype)
            ws_bar, bs_bar = tuple(map(np.zeros_like, ws)), tuple(map(np.zeros_like, bs))
            compiled(hs, ws, bs, tanh, in_rows(cotangent), x_bar, ws_bar, bs_bar)
        return (x_bar.reshape(x.shape), *(part for pair in zip(ws_bar, bs_bar, strict=True) for part in pair))

    return network


def load_torch() -> Callable[..., Any]:
    """Bias and product in one call, activations in place, and the calls that autograd itself goes back with."""
    import torch

    aten = torch.ops.aten

    def network(x: Any, *layers: Any, activation: str = "tanh", cotangent: Any = None) -> Any:
        lead, outputs, tanh = tuple(x.shape[:-1]), layers[-1].shape[0], activation == "tanh"
        samples = math.prod(lead)
        hs = [x.reshape(samples, x.shape[-1])]
        for place in range(0, len(layers) - 2, 2):
            z = torch.addmm(layers[place + 1], hs[-1], layers[place])
            hs.append(z.tanh_() if tanh else z.relu_())
        if cotangent is None:
            return torch.addmm(layers[-1], hs[-1], layers[-2]).reshape(*lead, outputs)
        z_bar = cotangent.reshape(samples, outputs)
        gradients: list[Any] = []
        for place in range(len(hs) - 1, -1, -1):
            h = hs[place]
            gradients += [z_bar.sum(0), torch.mm(h.T, z_bar)]
            h_bar = torch.mm(z_bar, layers[2 * place].T)
            if place:
                z_bar = aten.tanh_backward(h_bar, h) if tanh else aten.threshold_backward(h_bar, h, 0)
        return (h_bar.reshape(x.shape), *gradients[::-1])

    return network
