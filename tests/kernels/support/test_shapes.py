"""Messages for wrong shapes."""

import jax.numpy as jnp
import pytest

from slim.kernels.support.shapes import check_shape


def test_right_shape_passes():
  """Fails if correct arguments are refused."""
  check_shape("q", jnp.zeros((2, 3, 4)), "BTK", {"B": 2, "K": 4, "V": 7})


@pytest.mark.parametrize(
  ("shape", "sizes", "message"),
  [
    ((2, 3), {"B": 2}, r"q must have shape \[B, T, K\] with B=2, got \(2, 3\)"),
    ((2, 3, 4, 1), {}, r"q must have shape \[B, T, K\], got \(2, 3, 4, 1\)"),
    ((2, 3, 4), {"B": 2, "K": 5}, r"with B=2, K=5, got \(2, 3, 4\)"),
    ((2, 0, 4), {"B": 2}, r"with B=2, and only B may be 0, got \(2, 0, 4\)"),
    ((), {}, r"q must have shape \[B, T, K\], got \(\)"),
  ],
  ids=["rank too low", "rank too high", "size", "empty", "scalar"],
)
def test_wrong_shape_is_named(shape, sizes, message):
  """Fails if the message lacks what was expected or what was found."""
  with pytest.raises(ValueError, match=message):
    check_shape("q", jnp.zeros(shape), "BTK", sizes)
