"""Normalisation: batch norm at inference (where it is not folded into a convolution) and local response normalisation."""
