"""Training: `convatlas train` as a function. Optimizers and loaders are torch's; ours are the ops and their backward."""

from convatlas.train.run import Epoch, Settings, train

__all__ = ["Epoch", "Settings", "train"]
