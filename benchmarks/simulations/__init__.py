"""Parts of `python -m benchmarks.monte_carlo`: what runs of simulations cost, on which engine, beside what."""
