"""Element-wise ops: activations, residual_add and concat are one kernel with operands left out."""
