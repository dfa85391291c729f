"""Depthwise convolution (Howard et al. 2017, MobileNets; Chollet 2016, Xception): one input channel a filter, any multiplier."""
