"""1x1 -> depthwise -> 1x1, plus the input or nothing, as one kernel; and depthwise -> 1x1."""
