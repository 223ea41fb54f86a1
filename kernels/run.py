"""`run`: a built-in kernel on the backend that suits the call."""

from __future__ import annotations

from typing import Any

from ..selector.shared import default_selector


def run(operation: str, *args: Any, **kwargs: Any) -> Any:
    """Run a kernel: choose, execute, record in one call.

    Parameters
    ----------
    operation : "matmul", "fft", "conv", "element_wise", "reduction", "derivative", or a registered operation.
    *args, **kwargs : the operation's own arguments; see its module.

    Returns
    -------
    array
        Of the kind that came in: NumPy in gives NumPy out, torch in gives torch out. Last bits may differ between
        variants within the kernel's stated tolerance.

    Raises
    ------
    ValueError, TypeError
        Unknown operation (the known ones are listed), or arguments that the operation refuses.
    NoCandidateError
        Every variant is excluded or failed; each is listed with its reason.

    Examples
    --------
    >>> import numpy as np, pointsman as pm
    >>> pm.run("matmul", np.eye(2), np.ones((2, 2))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    return default_selector().run(operation, *args, **kwargs)
