"""array-api-strict as a backend: it has what the array API standard has, and nothing else."""

import sys
from importlib import metadata

import numpy as np
import pointsman as pm


class Strict(pm.Executor):
    """refuses whatever the array API standard lacks; for checks, not for speed"""

    name = "strict"
    kind = "strict"  # computes on arrays of its own: every function written with `xp` has a variant here
    library = "array_api_strict"
    import_s = 0.2
    capabilities = pm.Capabilities(dtypes=frozenset({"float32", "float64", "complex64", "complex128"}))

    def version(self):
        return metadata.version("array-api-strict")

    def probe(self):
        xp = self.namespace()
        found = float(xp.sum(xp.asarray([1.0, 2.0, 3.0])))
        if found != 6.0:  # a wrong number must not pass
            raise pm.BackendUnavailableError(f"the sum of 1, 2 and 3 came out as {found}")

    def namespace(self):
        import array_api_strict

        return array_api_strict

    def owns(self, x):
        library = sys.modules.get("array_api_strict")  # its arrays exist only where it is imported already
        return library is not None and isinstance(x, type(library.empty(0)))

    def convert_in(self, x, device="cpu"):
        if not isinstance(x, np.ndarray):
            return super().convert_in(x, device)  # another library's: over NumPy
        return self.namespace().asarray(np.array(x, dtype=x.dtype.newbyteorder("=")))

    def convert_out(self, y):
        return np.array(y)

    def astype(self, x, dtype):
        xp = self.namespace()
        return xp.astype(x, getattr(xp, dtype), copy=False)
