"""The gradient of a convolution by its weight and bias: sums over all pixels of the output, in parts that are added in order."""
