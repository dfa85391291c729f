"""3x3 max pooling of stride 1 and the 1x1 convolution behind it, as one kernel: inception's pooling branch."""
