"""Measuring: the timing protocol, its statistics, what is timed and against what, and the store of results."""
