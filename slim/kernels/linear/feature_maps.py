"""Feature maps: what linear attention puts in the place of exp(q · k).

Each maps the last axis elementwise, [..., K] -> [..., M] with M = K, to values
that are never negative, so that the normaliser q · z of linear attention is a
sum without cancellation. Each is a function of one token alone: a statistic
over the sequence (a maximum, a mean) would make the value depend on how the
sequence was cut into chunks.
"""

import jax
import jax.numpy as jnp


def relu(x: jax.Array) -> jax.Array:
  """Rectifies, and lifts by a constant: φ(x) = max(x, 0) + 1e-3.

  The constant is Performer's. Without it q · z can be exactly 0 when the sums
  are built up token by token, and a rounding error when they are taken down
  again, so that the two divide 0 by different numbers.

  Args:
    x: [..., K], float. Queries or keys.

  Returns:
    [..., K], dtype of `x`; at least 1e-3.

  References:
    Choromanski et al., 2021 (Performer), https://arxiv.org/abs/2009.14794.
  """
  return jax.nn.relu(x) + 1e-3


def elu_plus_one(x: jax.Array) -> jax.Array:
  """The smooth positive map φ(x) = elu(x) + 1: x + 1 above 0, exp(x) below.

  Args:
    x: [..., K], float. Queries or keys.

  Returns:
    [..., K], dtype of `x`; positive until exp underflows.

  References:
    Katharopoulos et al., 2020, https://arxiv.org/abs/2006.16236, equation 7.
  """
  # Not jax.nn.elu(x) + 1, which forms exp(x) - 1 and loses the small values.
  return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


def square(x: jax.Array) -> jax.Array:
  """The elementwise square φ(x) = x², which the SLiM experiments use.

  Args:
    x: [..., K], float. Queries or keys.

  Returns:
    [..., K], dtype of `x`; never negative.

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346.
  """
  return jnp.square(x)


FEATURE_MAPS = {"relu": relu, "elu_plus_one": elu_plus_one, "square": square}
