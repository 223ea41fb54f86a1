"""SciPy: functions that take and give NumPy arrays."""

from __future__ import annotations

import numpy as np

from .base import Capabilities, Executor
from .errors import BackendUnavailableError
from .on_numpy import FLOATS


class ScipyExecutor(Executor):
    """Runs SciPy functions; its routines compute in single and double precision, real and complex."""

    name = "scipy"
    capabilities = Capabilities(dtypes=FLOATS)

    def probe(self) -> None:
        """Transform four numbers. `scipy.fft` alone: `scipy.signal` would cost seconds to import."""
        import scipy.fft

        found = scipy.fft.fft(np.array([1.0, 2.0, 3.0, 4.0]))
        if not np.allclose(found, [10, -2 + 2j, -2, -2 - 2j], rtol=1e-12, atol=1e-12):
            raise BackendUnavailableError(f"the FFT of 1, 2, 3, 4 came out as {found}")


EXECUTOR = ScipyExecutor
