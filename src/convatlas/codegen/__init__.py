"""Compiles launches for GPUs that are not here, and reads their machine code."""
