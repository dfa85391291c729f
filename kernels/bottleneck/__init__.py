"""Bottlenecks of ResNet as one kernel: 1x1, 3x3, 1x1 and the shortcut, the middle maps in shared memory."""
