"""What launchers and the choice of a backend both ask of a GEMM."""

# Rows up to which a linear layer only streams its weights, and runs on the CUDA kernel for that (gemv.cu).
GEMV_ROWS = 8
