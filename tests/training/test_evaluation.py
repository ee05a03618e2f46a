"""Evaluation: every token once, and where each state comes from."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.training.evaluation import make_evaluation, make_evaluation_step
from slim.types import Batch, LanguageModel, Sums

VOCAB_SIZE = 64


def apply(params, tokens, state, keys=None):
  """Predicts token s + 1 after s tokens; the state counts the tokens."""
  del params, keys
  positions = state + 1 + jnp.arange(tokens.shape[1])
  logits = 100.0 * (positions[:, None] == jnp.arange(VOCAB_SIZE)[None])
  logits = jnp.broadcast_to(logits, (*tokens.shape, VOCAB_SIZE))
  return logits, state + tokens.shape[1]


MODEL = LanguageModel(
  init=None,
  init_state=lambda batch_size, max_tokens: jnp.int32(0),
  apply=apply,
  rewind=None,
  state_kind="fixed",
  is_random=False,
)


class Numbers:
  """Three batches [1, 7] of the numbers 0 … 20, each before its target."""

  def evaluation_batches(self):
    """Yields the batches; the last two tokens are padding."""
    for inputs in np.arange(21, dtype=np.int32).reshape(3, 1, 7):
      yield Batch(inputs, inputs + 1, (inputs < 19).astype(np.float32))


class Pairs:
  """A batch [2, 7] of the numbers 0 … 13."""

  def evaluation_batches(self):
    """Yields the batch."""
    inputs = np.arange(14, dtype=np.int32).reshape(2, 7)
    yield Batch(inputs, inputs + 1, np.ones((2, 7), np.float32))


def evaluate(chunk_size, **arguments):
  """Returns the sums over the numbers."""
  run = make_evaluation(
    MODEL, Numbers(), batch_size=1, chunk_size=chunk_size, **arguments
  )
  return run(None)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 9])
def test_every_token_counts_once(chunk_size):
  """Fails if the short chunk is lost, counted twice, or starts elsewhere."""
  sums = evaluate(chunk_size, carry_state=True)
  np.testing.assert_allclose(sums, Sums(nll=0.0, correct=19.0, weight=19.0))


def test_states_start_anew_unless_carried():
  """Fails if windows see the windows before them."""
  sums = evaluate(3)
  assert sums.correct == 7  # Of the first window; the others count on.
  np.testing.assert_allclose(sums.nll, 12 * 100.0)


def test_the_number_of_batches_is_limited():
  """Fails if an evaluation while training takes as long as the whole split."""
  assert evaluate(3, num_batches=2).weight == 14


def test_a_step_continues_from_its_state():
  """Fails if the state is dropped between batches."""
  tokens = jnp.zeros((2, 5), jnp.int32)
  batch = Batch(tokens, tokens, jnp.ones((2, 5)))
  step = jax.jit(make_evaluation_step(MODEL, 2))
  sums, state = step(None, jnp.int32(4), batch)
  assert state == 9
  chex.assert_shape(sums, (1, 3))  # One sum per chunk.


def test_chunks_need_a_state():
  """Fails if each chunk is scored as if nothing came before."""
  batch = next(Numbers().evaluation_batches())
  evaluation_step = make_evaluation_step(MODEL, 6)
  with pytest.raises(ValueError, match="chunk_size must be at least T = 7"):
    evaluation_step({}, None, batch)


def test_rows_are_computed_in_parts():
  """Fails if an evaluation needs more memory than training, or other data."""
  seen = []

  def note(params, tokens, state):
    seen.append(tokens.shape)
    return apply(params, tokens, state)

  run = make_evaluation(
    MODEL._replace(apply=lambda *args, keys=None: note(*args[:3])),
    Pairs(),
    batch_size=1,
    chunk_size=7,
    num_batches=1,
  )
  assert run(None).weight == 14
  assert {shape[0] for shape in seen} == {1}


def test_a_state_that_grows_is_not_carried():
  """Fails if the second batch finds no room, and is NaN."""
  model = MODEL._replace(state_kind="growing")
  with pytest.raises(ValueError, match="carry_state must be False for a mode"):
    make_evaluation(
      model, Numbers(), batch_size=1, chunk_size=3, carry_state=True
    )
