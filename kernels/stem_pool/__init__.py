"""A network's first convolution and the max pooling behind it, as one kernel."""
