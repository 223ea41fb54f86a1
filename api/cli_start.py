"""The command's first tenth of a second: an interrupt while its modules load ends in one line, as it does later."""

from __future__ import annotations

import os
import sys
from types import TracebackType


def is_command(program: str) -> bool:
    """Whether the process whose ``sys.argv[0]`` is `program` was started as our command, and not by a user's script."""
    return program == "-m" or os.path.basename(program).removesuffix(".exe") == "pointsman"  # "-m": of a module of ours


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("pointsman: interrupted\n")
        raise SystemExit(130)
    sys.__excepthook__(kind, error, traceback)


if is_command(sys.argv[0] if sys.argv else ""):
    sys.excepthook = _hook
