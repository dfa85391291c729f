"""What the kernels of several ops share: launches as values, targets, tile models, device code of both languages."""
