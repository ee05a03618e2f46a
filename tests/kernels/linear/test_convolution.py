"""The short convolution: any cut is the whole, also of one token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import short_convolution
from tests.helpers import assert_gradients_close

B, T, D, W = 2, 6, 3, 4


@pytest.mark.parametrize("positions", [None, np.arange(T) % 4])
def test_it_is_numpys_convolution_in_any_pieces(x64, positions):
  """Fails if a gradient is wrong, or a short piece or a document loses tokens.

  With positions, documents start at tokens 0 and 4.
  """
  if positions is not None:
    positions = np.broadcast_to(positions, (B, T))
  random = np.random.default_rng(0)
  x, weights = random.normal(size=(B, T, D)), random.normal(size=(W, D))
  state = random.normal(size=(B, W - 1, D))
  ct = random.normal(size=(B, T, D)), random.normal(size=(B, W - 1, D))

  def definition(x, weights, state):
    seen = jnp.concatenate([state, x], 1)
    moved = jnp.stack([seen[:, i : i + T] for i in range(W)])
    if positions is not None:
      distance = W - 1 - np.arange(W)[:, None, None]
      moved = jnp.where((positions >= distance)[..., None], moved, 0)
    return jnp.einsum("ibtd,id->btd", moved, weights), seen[:, T:]

  def in_pieces(x, weights, state):
    ys = []
    for start, end in ((0, 1), (1, 3), (3, T)):
      part = None if positions is None else positions[:, start:end]
      y, state = short_convolution(
        x[:, start:end], weights, state, positions=part
      )
      ys.append(y)
    return jnp.concatenate(ys, 1), state

  def whole_at_once(x, weights, state):
    return short_convolution(x, weights, state, positions=positions)

  @jax.jit
  def run(args):
    results = []
    for fn in (definition, whole_at_once, in_pieces):
      outputs, vjp = jax.vjp(fn, *args)
      results.append((outputs, vjp(ct)))
    return results

  right, whole, pieces = run((x, weights, state))
  assert_gradients_close(whole, right, 1e-14)
  assert_gradients_close(pieces, right, 1e-14)
  if positions is not None:
    return
  seen = np.concatenate([state, x], 1)
  expected = np.stack(
    [
      [
        np.convolve(seen[b, :, d], weights[::-1, d], mode="valid")
        for d in range(D)
      ]
      for b in range(B)
    ]
  )
  np.testing.assert_allclose(
    right[0][0], np.moveaxis(expected, 1, 2), rtol=1e-12
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"weights": np.zeros((W, D + 1))}, "weights must have shape"),
    ({"state": np.zeros((B, W, D))}, "state must have shape"),
    ({"x": np.zeros((B, T, D), int)}, "x must be floating-point"),
    ({"positions": np.zeros((B, T + 1), int)}, "positions must be integers of"),
    ({"positions": [[0.0] * T] * B}, "positions must be integers of shape"),
  ],
)
def test_wrong_arguments_are_named(change, message):
  """Fails if a wrong argument fails inside, or not at all."""
  arguments = {
    "x": np.zeros((B, T, D)),
    "weights": np.zeros((W, D)),
    "state": np.zeros((B, W - 1, D)),
  }
  with pytest.raises(ValueError, match=message):
    short_convolution(**(arguments | change))


def test_what_no_token_sees_has_no_gradient():
  """Fails if NaN before a document makes the gradient of weights NaN."""
  x, weights = np.ones((1, 4, 1), np.float32), np.ones((3, 1), np.float32)
  state = np.full((1, 2, 1), np.nan, np.float32)

  def total(weights):
    y, _ = short_convolution(
      x, weights, state, positions=np.arange(4, dtype=np.int32)[None]
    )
    return y.sum()

  np.testing.assert_array_equal(jax.grad(total)(weights)[:, 0], [2, 3, 4])
