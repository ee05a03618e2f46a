"""Reversible layers refuse wrong streams and sublayers in one line."""

import jax.numpy as jnp
import pytest

from slim.kernels import reversible, reversible_scan


@pytest.mark.parametrize(
  ("shapes", "dtype", "message"),
  [
    ([(2, 3), (2, 3)], "bfloat16", "streams must be float32 or wider, got bfl"),
    ([(2, 3), (2, 4)], "float32", "streams must have one shape and dtype, g"),
  ],
)
def test_wrong_streams_are_refused(shapes, dtype, message):
  """Fails if gradients can be wrong by more than rounding, silently."""
  streams = tuple(jnp.zeros(shape, dtype) for shape in shapes)
  with pytest.raises(ValueError, match=message):
    reversible([lambda *_: None], [()], streams, [()])


def test_odd_number_cannot_be_scanned():
  """Fails if the streams change places at each layer."""
  streams = (jnp.zeros(2), jnp.zeros(2))
  with pytest.raises(ValueError, match="sublayers must be an even number"):
    reversible_scan([lambda *_: None], [()], streams, [()])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda y: y[:1], r"got float32\[1, 3\]$"),
    (lambda y: y * 1j, r"got complex64\[2, 3\]$"),
  ],
)
def test_y_unlike_the_streams_is_refused(change, message):
  """Fails if its imaginary part is lost, or one row is added to all."""
  message = (
    r"^the y that sublayers\[1\] returns must be like the streams, float32"
    rf"\[2, 3\], {message}"
  )
  good, bad = (
    lambda params, x, context, replay, change=change: (change(x), (), ())
    for change in (lambda y: y, change)
  )
  x = jnp.zeros((2, 3))
  with pytest.raises(ValueError, match=message):
    reversible([good, bad], [(), ()], (x, x), [(), ()])


@pytest.mark.parametrize("name", ["params", "contexts"])
def test_one_entry_per_sublayer_is_required(name):
  """Fails if the error is about a zip."""
  arguments = {"params": [(), ()], "contexts": [(), ()]} | {name: [()]}
  message = f"^{name} must have one entry for each of the 2 sublayers, got 1$"
  with pytest.raises(ValueError, match=message):
    reversible(
      [lambda *_: None] * 2, streams=(jnp.zeros(2), jnp.zeros(2)), **arguments
    )
