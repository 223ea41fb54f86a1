"""`python -m benchmarks`: what choosing costs, then each kernel against the libraries' own calls; minutes.

Arguments (`--quick`, `--write`) go to both, each of which runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

PARTS = ("overhead", "kernels")

if __name__ == "__main__":
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *sys.argv[1:]], check=False).returncode
        for part in PARTS
    ]
    sys.exit(max(codes, key=abs))
