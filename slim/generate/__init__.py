"""Generate from a model, and score what others have written.

    tokens = generate(model, params, prompt, length=100, key=jax.random.key(0))
    nats = score(model, params, tokens)

`python -m slim.generate --workdir=… --prompt=…` does it with a trained run.
"""

from slim.generate.decoding import generate, stream
from slim.generate.sampling import Sampling, filter_logits, sample
from slim.generate.scoring import score

__all__ = [
  "Sampling",
  "filter_logits",
  "generate",
  "sample",
  "score",
  "stream",
]
