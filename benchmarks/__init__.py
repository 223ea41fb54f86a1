"""What choosing costs. Run from the repository's root: `python -m benchmarks.overhead`."""
