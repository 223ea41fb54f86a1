"""Arrays from one library to another, and what an object is, told by its type alone.

Nothing here imports a library: an array of torch exists only where torch is imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import GradientError, UnsupportedError

if TYPE_CHECKING:
    from .base import Executor

# A type that has one of these means to be an array of some kind, but none whose rules we know.
_ARRAY_MARKS = (
    "__array__",
    "__array_function__",
    "__array_interface__",
    "__array_namespace__",
    "__array_priority__",
    "__array_ufunc__",
    "__cuda_array_interface__",
    "__dlpack__",
    "__torch_function__",
)
_MOST_KINDS = 1024  # types are created at run time too (named tuples in loops): start afresh rather than grow
_KINDS: dict[type, str | None] = {np.ndarray: "numpy", float: None, int: None, str: None, type(None): None}


def kind_of(x: object) -> str | None:
    """Whose array `x` is, told by its type in about 0.1 us; no library is imported.

    Returns
    -------
    "numpy", "torch", "jax", "cupy" or the kind of a registered backend : a plain array of that library.
    "tracer" : a JAX tracer, which stands for an array that does not exist yet.
    "foreign" : an array whose meaning a plain conversion would lose: masked arrays and other subclasses of
        `numpy.ndarray` or `torch.Tensor`, pandas, xarray, sparse, units, dask. To be left as it is.
    None : no array; NumPy scalars count as numbers.
    """
    kind = type(x)
    try:
        return _KINDS[kind]
    except KeyError:
        if len(_KINDS) >= _MOST_KINDS:
            forget_types()
        found = _KINDS[kind] = _classify(kind, x)
        return found


def forget_types() -> None:
    """Drop what is known about types: a newly registered backend may claim some."""
    for kind in list(_KINDS):
        if kind is not np.ndarray:
            _KINDS.pop(kind, None)


def _classify(kind: type, x: object) -> str | None:
    if issubclass(kind, np.generic):
        return None
    if issubclass(kind, np.ndarray):
        return "numpy" if kind is np.ndarray else "foreign"
    torch: Any = sys.modules.get("torch")
    if issubclass(kind, getattr(torch, "Tensor", ())):
        return "torch" if kind in (torch.Tensor, torch.nn.Parameter) else "foreign"
    jax: Any = sys.modules.get("jax")
    if isinstance(x, getattr(jax, "Array", ())):
        return "tracer" if isinstance(x, jax.core.Tracer) else "jax"
    cupy: Any = sys.modules.get("cupy")
    if kind is getattr(cupy, "ndarray", None):
        return "cupy"
    from .registry import registered

    for executor in registered():
        if executor.owns(x):
            return executor.kind
    return "foreign" if any(hasattr(kind, mark) for mark in _ARRAY_MARKS) else None


def library_of(x: object) -> str | None:
    """The library whose functions take `x` as it is, tracers and subclasses included; None where it is no array."""
    kind = kind_of(x)
    if kind == "tracer":
        return "jax"
    if kind == "foreign":
        torch = sys.modules.get("torch")
        return "torch" if isinstance(x, getattr(torch, "Tensor", ())) else "numpy"
    return kind


def passes_through(x: object) -> bool:
    """Whether `x` is being traced or transformed, so that a call with it must run untouched and unrecorded.

    True for JAX tracers, and for torch tensors under `torch.compile`, functorch (`vmap`, `grad`), `torch.jit.trace`
    or in a subclass of their own (fake and functional tensors).
    """
    torch: Any = sys.modules.get("torch")
    if not isinstance(x, getattr(torch, "Tensor", ())):  # torch may be None, or being imported by another thread
        return kind_of(x) == "tracer"
    is_compiling, is_tracing, interpreters, plain = _WATCH or _watch(torch)
    return (
        is_compiling()  # first, because under torch.compile the rest would be traced along
        or is_tracing()
        or interpreters() is not None
        or type(x) not in plain
    )


_WATCH: tuple[Any, ...] | None = None  # looked up once: the attributes of torch cost more than the calls


def _watch(torch: Any) -> tuple[Any, ...]:
    global _WATCH
    # functorch's stack of running transformations has no public name; without it only its wrappers are noticed.
    interpreters = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)
    _WATCH = (torch.compiler.is_compiling, torch.jit.is_tracing, interpreters, (torch.Tensor, torch.nn.Parameter))
    return _WATCH


def residency(x: object) -> str:
    """Where `x` lies: its kind, with the device unless that is the host ("numpy", "torch", "torch@cuda:0").

    What is no array lies with "numpy".
    """
    kind = kind_of(x) or "numpy"
    device = getattr(x, "device", None)
    if kind == "torch":
        return kind if device.type == "cpu" else f"{kind}@{device}"  # type: ignore[union-attr]
    if kind == "jax":
        platform = getattr(device, "platform", "sharded")
        if platform == "cpu":
            return kind
        return f"jax@cuda:{device.id}" if platform in ("gpu", "cuda") else f"jax@{platform}"  # type: ignore[union-attr]
    if kind == "cupy":
        return f"cupy@cuda:{device.id}"  # type: ignore[union-attr]
    return kind


def dtype_name(x: object) -> str:
    """NumPy's name for the dtype of `x` ("float64", "bfloat16"), of whatever library it is."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        dtype = np.asarray(x).dtype
    return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]


def requires_grad(x: object) -> bool:
    """Whether `x` is a tensor whose gradient is being recorded."""
    return kind_of(x) == "torch" and bool(x.requires_grad)  # type: ignore[attr-defined]


def convert(x: Any, to: str, device: str | None = None, dtype: str | None = None) -> Any:
    """Give `x`, or each array in a tuple, list or dictionary, as an array of another library.

    Never narrows: an array whose dtype the target lacks is an error, unless `dtype` asks for another one. Never
    detaches a gradient. What is no array comes back as it is; a NumPy scalar becomes an array of no dimensions.

    Parameters
    ----------
    x : an array of numpy, torch, jax or cupy, or nested tuples, lists and dictionaries of them.
    to : name of a backend: "numpy" ("scipy" and "numba" mean the same), "torch", "jax", "cupy", or a registered one.
    device : "cpu" or "cuda:0"; None leaves an array of the target's own kind where it is and otherwise means "cpu", or
        the first GPU where the target has arrays there only (cupy).
    dtype : name of the wanted dtype ("float32"), or a dtype of any library; None keeps it.

    Returns
    -------
    The array. Whether memory is shared does not depend on its size:

    ==================  ====================================================================================
    already there       the same object
    numpy to torch      shared on the host; a copy if `x` is read-only, misaligned, byte-swapped or has a negative
                        stride, or goes to another device
    torch to numpy      shared on the host, unless the tensor is expanded or lazily conjugated; copied from a GPU
    all others          a copy: a JAX array must not change, and what came from it must be writable
    ==================  ====================================================================================

    Raises
    ------
    UnsupportedError : the target lacks the dtype, a gradient would be lost, or `x` is an array of a kind that a
        conversion would strip of its meaning (masked, with units, labelled, sparse, traced).
    BackendUnavailableError : the target is not installed or does not work.
    ValueError : no backend is called `to`.
    """
    from . import registry

    dtype = None if dtype is None else _name_of(dtype)
    target, _ = registry.ensure(to)
    if device is not None and device not in target.devices():
        raise UnsupportedError(f"{to} cannot use device {device!r} here; it can use: {', '.join(target.devices())}")
    return map_leaves(lambda leaf: _convert_leaf(leaf, target, device, dtype), x)


def _name_of(dtype: object) -> str:
    """Name of a dtype that may be given as NumPy's, torch's or jax's own."""
    if isinstance(dtype, str):
        return dtype
    text = str(dtype)
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    try:
        return np.dtype(dtype).name  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise TypeError(f"dtype: found {dtype!r}; give a name such as 'float32', or a dtype") from None


def _convert_leaf(x: Any, target: Executor, device: str | None, dtype: str | None) -> Any:
    if isinstance(x, np.generic):
        x = np.asarray(x)
    elif getattr(type(x), "__cuda_ndarray__", False):
        x = x.copy_to_host()  # Numba's, as `to="numba"` gives on a GPU
    kind = kind_of(x)
    if kind is None:
        return x
    if kind in ("foreign", "tracer"):
        raise UnsupportedError(why_refused(x, kind))
    if dtype is not None and dtype_name(x) != dtype:
        x, dtype = _cast_at_source(x, kind, dtype)
    if kind != target.kind:
        x = target.convert_in(x, device or target.capabilities.home)
    elif device is not None and residency(x).partition("@")[2] != device.replace("cpu", ""):
        x = target.convert_in(x, device)
    return x if dtype is None else target.astype(x, dtype)


def _cast_at_source(x: Any, kind: str, dtype: str) -> tuple[Any, str | None]:
    """`x` in `dtype`, where its own library has it; else as it was, with the dtype left for the target."""
    from . import registry

    source = registry.of_kind(kind)
    if source is None:
        return x, dtype
    try:
        return source.astype(x, dtype), None
    except UnsupportedError:
        return x, dtype


def across(x: Any, target: Executor, device: str = "cpu") -> Any:
    """An array of a third library as one of `target`'s: on the GPU by DLPack, otherwise over the host."""
    from . import registry

    kind = kind_of(x)
    if kind is None or kind in ("foreign", "tracer"):
        raise UnsupportedError(why_refused(x, kind))
    if requires_grad(x):
        raise GradientError(
            f"a tensor that requires a gradient does not leave torch for {target.name}: its gradient would be lost; "
            "pass x.detach() if that is what you want"
        )
    there = (residency(x).partition("@")[2] or "cpu") == device
    # On the host only what NumPy has no dtype for: both libraries may be going by NumPy's memory already.
    if there and hasattr(target, "from_dlpack") and (device != "cpu" or dtype_name(x) == "bfloat16"):
        return target.from_dlpack(x)
    source = registry.of_kind(kind)
    if source is None:
        raise UnsupportedError(f"no backend has arrays of kind {kind!r} any more; it was taken out")
    return target.convert_in(source.convert_out(x), device)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `function` to what nested tuples (named ones too), lists and dictionaries hold."""
    if isinstance(tree, tuple):
        leaves = [map_leaves(function, leaf) for leaf in tree]
        make = getattr(tree, "_make", type(tree))
        return make(leaves)
    if isinstance(tree, list):
        return [map_leaves(function, leaf) for leaf in tree]
    if isinstance(tree, Mapping):
        return {name: map_leaves(function, leaf) for name, leaf in tree.items()}
    return function(tree)


def why_refused(x: object, kind: str | None) -> str:
    """The sentence why `x`, which is of `kind`, is not converted, and what to pass instead."""
    name = f"{type(x).__module__}.{type(x).__qualname__}"
    if kind is None:
        return f"{name} is no array; make one with numpy.asarray first"
    if kind == "tracer":
        return f"{name} is being traced and holds no numbers yet; convert before or after the transformed function"
    if isinstance(x, np.ma.MaskedArray):
        return f"{name} would lose its mask; pass x.filled(value) or x.data if that is what you want"
    if hasattr(x, "todense"):
        return f"{name} is sparse; pass x.toarray() if the dense array fits in memory"
    return f"{name} is not a plain array and would lose what sets it apart; pass numpy.asarray(x) to drop that"
