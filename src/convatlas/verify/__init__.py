"""What runs whole nets: check (every op against the reference), verify, classify; and images, where pictures become tensors."""
