"""WHICH: workload, constraints, cost model, policy, decision."""
