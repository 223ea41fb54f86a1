"""The benchmark of selecting: recorded cost matrices, streams of calls replayed against policies, measures."""
