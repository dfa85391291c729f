"""The time model held to stored times of a GPU: `python -m convatlas.study.evaluation.fitted`, and what docs/model.md shows of it.

fitted    its errors on layers that it was not fitted on, and the fit itself
judged    whether it names the limiter, puts kernels in order and picks configs
page      the page's tables and picture
"""
