"""What was learned, and how it is told: hardware facts, outcomes, the history, the summary."""
