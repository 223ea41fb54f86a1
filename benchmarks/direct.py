"""What a variant is held against: the call that a user would write with the library alone, NumPy in and NumPy out.

`DIRECT` has the library's own calls, by operation and variant. A variant without one (no library has a call for it)
is held against its own function called bare, with the library's plain conversions around it: so a new kernel is
compared as soon as it stands in the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.kernels.base import Kernel
from pointsman.kernels.binding import CORES
from pointsman.kernels.derivative import weights

Function = Callable[..., Any]


class Direct(NamedTuple):
    """A call to compare with, and what it is."""

    call: Function
    what: str  # "library", or "bare" for the variant's own function


def direct(kernel: Kernel, variant: Variant) -> Direct:
    """The call that `variant` is held against, with the same number of threads."""
    written = DIRECT.get(kernel.name, {})
    name = variant.name.removesuffix("/1-thread")
    if name in written:
        function, what = written[name](), "library"
    else:
        function, what = variant.load(), "bare"
    if variant.backend == "jax" and what == "library":
        import jax

        function = jax.jit(function, static_argnames=kernel.portable.static if kernel.portable else ())
    around = _AROUND.get(variant.backend)
    call = function if around is None else around(function)
    return Direct(registry.executor(variant.backend).prepare(call, variant), what)


# ---- conversions as one writes them by hand


def _around_torch(function: Function) -> Function:
    import torch

    def call(*args: Any, **kwargs: Any) -> Any:
        y = function(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args), **kwargs)
        return tuple(part.numpy() for part in y) if isinstance(y, tuple) else y.numpy()

    return call


def _around_jax(function: Function) -> Function:
    import jax

    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            y = function(*args, **kwargs)
            return tuple(np.array(part) for part in y) if isinstance(y, tuple) else np.array(y)

    return call


_AROUND: Mapping[str, Callable[[Function], Function]] = {"torch": _around_torch, "jax": _around_jax}


# ---- the libraries' own calls


def _own(path: str, **kwargs: Any) -> Callable[[], Function]:
    """The function at `path`, imported when it is asked for."""
    module, _, name = path.rpartition(".")

    def load() -> Function:
        function = getattr(importlib.import_module(module), name)
        return (lambda *args: function(*args, **kwargs)) if kwargs else function  # type: ignore[no-any-return]

    return load


def _fftw(threads: int) -> Callable[[], Function]:
    def load() -> Function:
        import pyfftw
        from pyfftw.interfaces.scipy_fft import rfft

        pyfftw.interfaces.cache.enable()
        return lambda x: rfft(x, workers=threads)

    return load


def _chain(module: str) -> Callable[[], Function]:
    def load() -> Function:
        xp = importlib.import_module(module)
        return lambda x: xp.sin(x) * xp.exp(-x) + xp.sqrt(xp.abs(x))

    return load


def _squares(module: str) -> Callable[[], Function]:
    def load() -> Function:
        xp = importlib.import_module(module)
        return lambda x: xp.sum(x * x)

    return load


def _numpy_convolution() -> Function:
    def by_fft(x: Any, k: Any) -> Any:
        n = x.size + k.size - 1
        return np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(k, n), n)

    return by_fft


def _torch_convolution() -> Function:
    from torch.nn.functional import conv1d

    return lambda x, k: conv1d(x[None, None], k.flip(0)[None, None], padding=k.shape[0] - 1)[0, 0]


def _derivative_fft(module: str) -> Callable[[], Function]:
    """Two transforms and a product, the weights' spectrum kept: what is left when everything else is taken away."""

    def load() -> Function:
        from scipy.fft import next_fast_len

        fft, kept = importlib.import_module(module), {}

        def by_fft(f: Any, *, order: float, step: float) -> Any:
            n = f.shape[-1]
            key = (order, n, f.dtype)
            if key not in kept:
                size = next_fast_len(2 * n - 1, real=True)
                kept[key] = (
                    size,
                    np.fft.rfft(weights(order, n) * step**-order, size).astype(np.result_type(f.dtype, np.complex64)),
                )
            size, response = kept[key]
            return fft.irfft(fft.rfft(f, size) * response, size)[..., :n]

        return by_fft

    return load


def _derivative_sum() -> Function:
    def by_sum(f: Any, *, order: float, step: float) -> Any:
        n = f.shape[-1]
        return np.convolve(f, weights(order, n).astype(f.dtype))[:n] * f.dtype.type(step**-order)

    return by_sum


def _numpy_softmax() -> Function:
    def softmax(x: Any) -> Any:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    return softmax


def _network(module: str) -> Callable[[], Function]:
    def load() -> Function:
        xp = importlib.import_module(module)

        def values(x: Any, *layers: Any, **_: Any) -> Any:
            for w, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
                x = xp.tanh(x @ w + b)
            return x @ layers[-2] + layers[-1]

        return values

    return load


def _torch_sort() -> Function:
    import torch

    return lambda x: torch.sort(x).values


DIRECT: Mapping[str, Mapping[str, Callable[[], Function]]] = {
    "matmul": {"numpy": _own("numpy.matmul"), "torch": _own("torch.matmul"), "jax": _own("jax.numpy.matmul")},
    "fft": {
        "numpy": _own("numpy.fft.rfft"),
        "scipy": _own("scipy.fft.rfft"),
        "scipy/threads": _own("scipy.fft.rfft", workers=CORES),
        "fftw": _fftw(1),
        "fftw/threads": _fftw(CORES),
        "torch": _own("torch.fft.rfft"),
        "jax": _own("jax.numpy.fft.rfft"),
    },
    "conv": {
        "numpy/fft": _numpy_convolution,
        "numpy/direct": _own("numpy.convolve"),
        "scipy/fft": _own("scipy.signal.fftconvolve"),
        "scipy/overlap-add": _own("scipy.signal.oaconvolve"),
        "scipy/direct": _own("scipy.signal.convolve2d"),
        "torch/direct": _torch_convolution,
        "jax/fft": _own("jax.scipy.signal.fftconvolve"),
        "jax/direct": _own("jax.numpy.convolve"),
    },
    "element_wise": {"numpy": _chain("numpy"), "torch": _chain("torch"), "jax": _chain("jax.numpy")},
    "reduction": {
        "numpy": _squares("numpy"),
        "numpy/dot": lambda: lambda x: np.dot(x, x),
        "torch": _squares("torch"),
        "jax": _squares("jax.numpy"),
    },
    "derivative": {
        "numpy/fft": _derivative_fft("numpy.fft"),
        "scipy/fft": _derivative_fft("scipy.fft"),
        "numpy/direct": _derivative_sum,
    },
    "cumulative_sum": {
        "numpy": _own("numpy.cumsum", axis=-1),
        "torch": _own("torch.cumsum", dim=-1),
        "jax": _own("jax.numpy.cumsum", axis=-1),
    },
    "sort": {"numpy": _own("numpy.sort"), "torch": _torch_sort, "jax": _own("jax.numpy.sort")},
    "softmax": {
        "numpy": _numpy_softmax,
        "scipy": _own("scipy.special.softmax", axis=-1),
        "torch": _own("torch.softmax", dim=-1),
        "jax": _own("jax.nn.softmax", axis=-1),
    },
    "neural_network": {"numpy": _network("numpy"), "torch": _network("torch"), "jax": _network("jax.numpy")},
    "pairwise_distance": {"scipy": _own("scipy.spatial.distance.cdist"), "torch": _own("torch.cdist")},
}
