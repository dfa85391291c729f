"""2-D convolution: by gather, by tensor memory access, and for few input channels. 1x1 and depthwise have folders of their own."""
