"""Feature maps of linear attention, which replaces exp(q · k) by φ(q) · φ(k).

Each maps the last axis elementwise, [..., K] -> [..., M] with M = K, to values
that are never negative, so the normaliser q · z is a sum without cancellation.
Each depends on one token only. A statistic over the sequence, such as a maximum
or a mean, would make the result depend on the chunks.
"""

import jax
import jax.numpy as jnp


def relu(x: jax.Array) -> jax.Array:
  """Computes φ(x) = max(x, 0) + 1e-3.

  The constant is Performer's. Without it q · z can be exactly 0 in the forward
  pass and a rounding error after rewinding, so that the two passes divide 0 by
  different numbers.

  Args:
    x: [..., K], float. Queries or keys.

  Returns:
    [..., K], dtype of `x`, 1e-3 or larger.

  References:
    Choromanski et al., 2021 (Performer), https://arxiv.org/abs/2009.14794.
  """
  return jax.nn.relu(x) + 1e-3


def elu_plus_one(x: jax.Array) -> jax.Array:
  """Computes φ(x) = elu(x) + 1, which is x + 1 above 0 and exp(x) below.

  Args:
    x: [..., K], float. Queries or keys.

  Returns:
    [..., K], dtype of `x`, positive unless exp underflows.

  References:
    Katharopoulos et al., 2020, https://arxiv.org/abs/2006.16236, equation 7.
  """
  # jax.nn.elu(x) + 1 would compute exp(x) - 1 first and lose small values.
  # jnp.minimum(x, 0) would halve the derivative at 0.
  return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


def square(x: jax.Array) -> jax.Array:
  """Computes φ(x) = x², the feature map of the SLiM experiments.

  Args:
    x: [..., K], float. Queries or keys.

  Returns:
    [..., K], dtype of `x`, never negative.

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346.
  """
  return jnp.square(x)


FEATURE_MAPS = {"relu": relu, "elu_plus_one": elu_plus_one, "square": square}
