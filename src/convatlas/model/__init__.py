"""What is known of GPUs, and what follows from it: hardware data, occupancy, times. Computed, not measured, without torch."""
