"""What kernels become: launches compiled for GPUs that are not here, and their machine code read."""
