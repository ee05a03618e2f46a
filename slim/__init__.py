"""Sequence models whose training memory does not grow with the sequence.

A model is a step over chunks of tokens that carries a small state, so the same
code trains on whole sequences, trains chunk by chunk with exact gradients and
the memory of one chunk (SLiM), and evaluates long documents.
`slim.kernels` holds the pure functions, which need nothing but JAX;
`slim.models` the language models; `python -m slim.train` trains one.
"""

__version__ = "0.1.0"
