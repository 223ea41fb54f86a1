"""One function in two forms on JAX: quick where it is called, differentiable where it is transformed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..executors import registry
from ..executors.base import Variant


def jax_variants(
    name: str,
    plain: Callable[..., Any],
    traced: Callable[..., Any],
    *,
    static: Sequence[str] = (),
    traced_static: Sequence[str] = (),
    **fields: Any,
) -> tuple[Variant, Variant]:
    """The variants `name` and ``f"{name}@cuda:0"`` of two jitted functions that compute the same.

    JAX differentiates no loop whose count it does not know when it compiles, and keeps something for every turn of
    one that it does know. Calls need neither, and are then compiled less often and run in less memory.

    Parameters
    ----------
    plain : for calls with arrays.
    traced : for calls within the caller's own `jax.grad`, `jax.jit`, `jax.vmap` and the like; slower at most.
    static, traced_static : names of the parameters that each of them takes as constants.
    fields : as in `Variant`.
    """

    def load() -> Callable[..., Any]:
        import jax

        executor = registry.executor("jax")
        quick, smooth = executor.compile(plain, static), executor.compile(traced, traced_static)

        def either(*args: Any, **kwargs: Any) -> Any:
            watched = any(isinstance(x, jax.core.Tracer) for x in (*args, *kwargs.values()))
            return (smooth if watched else quick)(*args, **kwargs)

        either._cache_size = quick._cache_size  # type: ignore[attr-defined]  # what it has compiled, for whoever asks
        return either

    return (
        Variant(name, "jax", load, gradients=True, **fields),
        Variant(f"{name}@cuda:0", "jax", load, device="cuda:0", gradients=True, **fields),
    )
