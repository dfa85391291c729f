"""Element-wise ops: relu, relu6, residual_add and concat are one kernel with operands left out."""
