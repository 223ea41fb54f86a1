"""Let the environment named on the command line see this one's libraries, but not this one's pointsman."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

own = Path(sysconfig.get_path("purelib"))
target = Path(sys.argv[1]) / own.relative_to(sys.prefix)
# A .pth line is appended to sys.path, so the wheel's own files come first, and the editable install's hook
# (a .pth file itself) is not run: .pth files count only in folders that `site` was told of.
(target / "borrowed.pth").write_text(f"{own}\n")
