"""What the older form of a cost matrix leaves unsaid: shapes, declared work, the library behind a variant's name."""

from __future__ import annotations

import math

# Word in a variant's name -> backend, what makes it compile anew, seconds of its import on a two-core machine.
WORDS: dict[str, tuple[str, str, float]] = {
    "fftw": ("fftw", "never", 0.1),
    "numpy": ("numpy", "never", 0.0),
    "scipy": ("scipy", "never", 0.3),
    "numba": ("numba", "dtype", 0.6),
    "torch": ("torch", "never", 2.5),
    "jax": ("jax", "shape", 1.5),
    "cupy": ("cupy", "never", 0.7),
    "joblib": ("joblib", "never", 0.3),
    "threads": ("joblib", "never", 0.0),
    "mp_pool": ("joblib", "never", 0.0),
    "serial": ("sequential", "never", 0.0),
}
CONV1D_KERNEL, CONV2D_KERNEL, ROWS, WORKERS = 129, 15, 64, 1000


def guessed_backend(variant: str) -> tuple[str, str, float]:
    """Backend, what it compiles for and seconds of its import, by a word in the variant's name."""
    for word, found in WORDS.items():
        if word in variant.lower():
            return found
    return variant.split("/")[0].split("@")[0], "never", 0.0


def declared_shapes(operation: str, size: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the operands of an operation of the older grid; one vector for any other."""
    return {
        "matmul": ((size, size), (size, size)),
        "fft_batch": ((ROWS, size),),
        "conv1d": ((size,), (CONV1D_KERNEL,)),
        "conv2d": ((size, size), (CONV2D_KERNEL, CONV2D_KERNEL)),
        "gl": ((size,), (size,)),
        "mc": ((WORKERS, size),),
    }.get(operation, ((size,),))


def declared_work(operation: str, variant: str, size: int) -> float:
    """Elementary operations of a variant of the older grid; the size for any other operation."""
    n = float(size)
    spectral = "fft" in variant or variant.endswith("_oa")
    if operation == "matmul":
        return n**3
    if operation == "fft":
        return _fft(n)
    if operation == "fft_batch":
        return ROWS * _fft(n)
    if operation == "conv1d":
        return _fft(n + CONV1D_KERNEL) if spectral else n * CONV1D_KERNEL
    if operation == "conv2d":
        edge = n + CONV2D_KERNEL  # there "numpy" goes through the spectrum as well
        return _fft(edge**2) if spectral or variant == "numpy" else n**2 * CONV2D_KERNEL**2
    if operation == "gl":
        return _fft(2.0 * n) if spectral else n**2
    if operation == "mc":
        return WORKERS * n
    return n


def _fft(n: float) -> float:
    return n * max(math.log2(n), 1.0)
