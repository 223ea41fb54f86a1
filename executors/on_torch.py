"""PyTorch: tensors on the host or on a GPU, with gradients.

NumPy arrays come in and go out without a copy; gradients are never detached unasked.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..telemetry.outcome import Failure
from .base import Capabilities, Executor, Variant
from .errors import BackendUnavailableError, GradientError, UnsupportedError

_DTYPES = "bool int8 int16 int32 int64 uint8 float16 bfloat16 float32 float64 complex64 complex128"

# Torch raises plain RuntimeErrors; only its own wordings count, so that a caller's RuntimeError stays the caller's.
_WORDINGS = (
    (
        Failure.OUT_OF_MEMORY,
        re.compile(r"DefaultCPUAllocator: (can't|not)|CUDA out of memory|STATUS_ALLOC_FAILED"),
    ),
    (Failure.UNSUPPORTED, re.compile(r"\" not implemented for '[A-Z]|Could not run 'aten::|^Unsupported dtype [A-Z]")),
    (Failure.DRIVER, re.compile(r"CUDA error|CUDA driver|cuDNN error|NCCL error|CU(BLAS|FFT|SOLVER)_\w*STATUS|CUFFT_")),
    (Failure.UNAVAILABLE, re.compile(r"Torch not compiled with CUDA|No CUDA GPUs are available")),
)


class TorchExecutor(Executor):
    """Runs functions on torch tensors."""

    name = "torch"
    kind = "torch"
    capabilities = Capabilities(
        dtypes=frozenset(_DTYPES.split()), gradients=True, devices=("cpu", "cuda"), asynchronous=True,
        sets_threads=True,
    )  # fmt: skip

    def devices(self) -> tuple[str, ...]:
        """The host, and the GPUs that NVML names where this build of torch has CUDA at all."""
        from ..telemetry import hardware

        gpus = hardware.gpus()
        if not gpus or not _built_with_cuda():
            return ("cpu",)
        # CUDA counts the visible devices from zero, whatever their numbers on the machine.
        return ("cpu", *(f"cuda:{i}" for i in range(len(gpus))))

    def probe(self) -> None:
        """Differentiate a sum of squares: the one thing only torch and jax do here."""
        import torch

        x = torch.arange(4, dtype=torch.float64, requires_grad=True)
        (x * x).sum().backward()  # type: ignore[no-untyped-call]
        found = [] if x.grad is None else x.grad.tolist()
        if found != [0.0, 2.0, 4.0, 6.0]:
            raise BackendUnavailableError(f"the gradient of the sum of squares of 0..3 came out as {found}")

    def after_fork(self) -> None:
        """Compute on one thread, as torch's own data loaders do: OpenMP's others stay behind in the parent."""
        sys.modules["torch"].set_num_threads(1)

    def namespace(self) -> Any:
        """`array_api_compat.torch`."""
        import array_api_compat.torch as xp

        return xp

    def owns(self, x: object) -> bool:
        """Whether `x` is a tensor."""
        torch = sys.modules.get("torch")
        return isinstance(x, getattr(torch, "Tensor", ()))

    def is_asynchronous(self, device: str) -> bool:
        """GPU calls return early, calls on the host do not."""
        return device != "cpu"

    def convert_in(self, x: Any, device: str = "cpu") -> Any:
        """Give `x` as a tensor on `device`.

        A NumPy array's memory is shared (device "cpu") unless the array is read-only, misaligned, byte-swapped or has
        negative strides: then it is copied. A tensor keeps its graph.
        """
        import torch

        if isinstance(x, np.ndarray):
            tensor = _from_numpy(torch, x)
        elif isinstance(x, torch.Tensor):
            tensor = x
        else:
            from .conversion import across

            return across(x, self, device)
        return tensor if device == "cpu" and tensor.device.type == "cpu" else tensor.to(device)

    def from_dlpack(self, x: Any) -> Any:
        """A tensor on the GPU where `x` lies; a copy, because writing to a tensor must not change `x`."""
        import torch.utils.dlpack

        return torch.utils.dlpack.from_dlpack(x).clone()

    def convert_out(self, y: Any) -> np.ndarray[Any, Any]:
        """Give the tensor as a writable NumPy array, sharing memory where it lies on the host."""
        try:
            array: np.ndarray[Any, Any] = y.numpy()
        except (RuntimeError, TypeError) as error:
            array = _to_numpy(y, error)
        # An expanded tensor repeats memory; NumPy would let a write to one element change its neighbours.
        return array.copy() if 0 in array.strides and array.size > 1 else array

    def astype(self, x: Any, dtype: str) -> Any:
        """Give the tensor in the dtype of that name."""
        import torch

        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise UnsupportedError(f"torch has no dtype {dtype!r}; it has: {_DTYPES}")
        return x.to(found)

    def synchronize(self, y: Any) -> None:  # noqa: ARG002 - all work of the device is waited for
        """Wait for the GPU, where one is in use."""
        torch = sys.modules["torch"]
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def prepare(self, function: Callable[..., Any], variant: Variant) -> Callable[..., Any]:
        """Run with `variant.threads` threads, and put the caller's count back."""
        threads = variant.threads
        if threads is None:
            return function
        import torch

        # The count is kept per thread by OpenMP, but a thread that uses torch for the first time inherits the latest
        # one set anywhere: one more reason why the plain variant never sets it. Both calls together cost 0.3 us.
        @functools.wraps(function)
        def with_threads(*args: Any, **kwargs: Any) -> Any:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return function(*args, **kwargs)
            finally:
                torch.set_num_threads(before)

        return with_threads

    def classify(self, error: BaseException) -> Failure | None:
        """Read torch's own error classes and wordings."""
        torch = sys.modules.get("torch")
        if isinstance(error, getattr(torch, "OutOfMemoryError", ())):
            return Failure.OUT_OF_MEMORY
        if isinstance(error, RuntimeError | AssertionError):
            text = str(error)
            for failure, wording in _WORDINGS:
                if wording.search(text):
                    return failure
        return super().classify(error)

    def free_caches(self) -> None:
        """Give the GPU memory that torch keeps for itself back to the device."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def reusable_bytes(self, device: str) -> int:
        """Bytes that torch has reserved on `device` and not handed out."""
        torch = sys.modules.get("torch")
        if device == "cpu" or torch is None or not torch.cuda.is_initialized():
            return 0
        return int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _from_numpy(torch: Any, x: np.ndarray[Any, Any]) -> Any:
    try:
        # from_numpy takes read-only memory with a warning, and a write through the tensor would then go through.
        if x.flags.behaved:
            return torch.from_numpy(x)
        return torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("="), order="C"))
    except ValueError:  # negative strides, byte order, or strides that are no multiple of the item
        return torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise UnsupportedError(f"torch has no dtype for NumPy's {x.dtype}; it has: {_DTYPES}") from None


def _to_numpy(y: Any, error: Exception) -> np.ndarray[Any, Any]:
    """What `y.numpy()` refused: a reason to give, or one more step to take."""
    if y.requires_grad:
        raise GradientError(
            "a tensor that requires a gradient does not leave torch: its gradient would be lost; "
            "pass x.detach() if that is what you want"
        ) from error
    y = y.cpu().resolve_conj().resolve_neg()
    try:
        array: np.ndarray[Any, Any] = y.numpy()
    except (RuntimeError, TypeError):
        raise UnsupportedError(
            f"a {y.layout} tensor of {y.dtype} has no NumPy counterpart; "
            "ask for a dtype that NumPy has (dtype='float32'), or call x.to_dense() first"
        ) from error
    return array


@functools.lru_cache(maxsize=1)
def _built_with_cuda() -> bool:
    """Whether the installed torch has CUDA, read from its version file: importing it would take seconds."""
    spec = find_spec("torch")
    if spec is None or not spec.origin:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return True  # an unusual build: torch itself will say, when it is first used
    found = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return found is None or found.group(1) != "None"


EXECUTOR = TorchExecutor
