"""The log-likelihood of tokens, in pieces and whole."""

import jax
import numpy as np
import pytest

from slim.generate import score
from tests.models.small import apply_of, create, params_of, tokens_of

MODELS = {
  "linear": {},
  "chunked": {"attention": "chunked_softmax", "positions": "rotary"},
  "local": {"attention": "local", "positions": "rotary"},
  "lsh": {"attention": "lsh", "positions": "axial"},
}


@pytest.mark.parametrize("name", MODELS)
def test_pieces_score_as_the_whole(x64, name):
  """Fails if a token is skipped, or a state is lost between two pieces."""
  model = create(**MODELS[name])
  params, tokens = params_of(model), tokens_of(2, 22)
  logits, _ = apply_of(model)(params, tokens[:, :-1], model.init_state(2))
  p = np.take_along_axis(
    np.asarray(jax.nn.softmax(logits, -1)), tokens[:, 1:, None], -1
  )
  # With a short last piece, longer than the tokens, or of all at once.
  chunk_sizes = {"linear": (8, 500), "lsh": (21,)}.get(name, (8,))
  for chunk_size in chunk_sizes:
    found = score(model, params, tokens, chunk_size=chunk_size)
    np.testing.assert_allclose(found, -np.log(p[..., 0]), rtol=1e-12)


def test_a_token_beyond_the_vocabulary_is_nan(x64):
  """Fails if a large number is taken for a small one."""
  model = create()
  tokens = tokens_of(2, 22).astype(np.int64)
  tokens[0, 5] = 2**32 + 1
  found = score(model, params_of(model), tokens, chunk_size=8)
  assert np.isnan(found[0, 4])
  assert np.isfinite(found[1]).all()


@pytest.mark.parametrize(
  ("name", "tokens", "message"),
  [
    ("linear", tokens_of(2, 1), r"T >= 2, got int32\[2, 1\]"),
    ("linear", np.zeros((1, 4)), r"must be integers \[B, T\]"),
    ("linear", np.zeros(4, int), r"got int64\[4\]"),
    ("lsh", tokens_of(1, 30), "chunk_size must be at least 29 for 30 tokens"),
    ("lsh", tokens_of(1, 72), "must be at most 71, as the model has pos"),
    ("lsh", -tokens_of(1, 9) - 1, "tokens must not be negative, got -"),
  ],
)
def test_what_cannot_be_scored_is_refused(x64, name, tokens, message):
  """Fails if positions are NaN, or a sequence is cut without a word."""
  model = create(**MODELS[name])
  with pytest.raises(ValueError, match=message):
    score(model, {}, tokens, chunk_size=8)
