"""The decay that Mamba-2, gated DeltaNet and KDA learn, and its parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from slim.kernels.support.dtypes import at_least_float32
from slim.models.layers import uniform_init
from slim.models.mixers.multi_head import MixerModule


def gate_parameters(
  mixer: MixerModule,
  bias_shape: tuple[int, ...],
  scale_shape: tuple[int, ...],
  slowest: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Makes the parameters of `softplus_decay`, as Mamba-2 starts them.

  Args:
    mixer: The mixer, within its compact method.
    bias_shape: [H] or [H, K].
    scale_shape: [H] or [H, 1].
    slowest: The smallest initial exp(log_scale); the largest is 16.

  Returns:
    The bias of `rate`, whose softplus is a time step from 0.001 to 0.1, and
    `log_scale`, both with axes for B and T.
  """
  dtype = at_least_float32(mixer.dtype)
  steps = log_uniform_init(1e-3, 0.1, through_softplus=True)
  bias = mixer.param("step_bias", steps, bias_shape, dtype)
  scales = log_uniform_init(slowest, 16)
  log_scale = mixer.param("log_scale", scales, scale_shape, dtype)
  return bias[None, None], log_scale[None, None]


def softplus_decay(rate: jax.Array, log_scale: jax.Array) -> jax.Array:
  """Computes the log decay -exp(log_scale) · softplus(rate), at most 0.

  Args:
    rate: Float32 or wider.
    log_scale: Broadcasts with it. Beyond 20 it is cut off: exp would overflow,
      and inf · softplus = NaN where softplus vanishes.

  Returns:
    Array like `rate`.
  """
  return -jnp.exp(jnp.minimum(log_scale, 20)) * nn.softplus(rate)


def log_uniform_init(
  low: float, high: float, *, through_softplus: bool = False
) -> Callable[[jax.Array, tuple[int, ...], Any], jax.Array]:
  """Makes an initialiser of log x for x uniform in [low, high).

  Args:
    low: Above 0.
    high: Above `low`.
    through_softplus: Draw log x uniformly instead, and return y with
      softplus(y) = x, as for the time steps of Mamba.

  Returns:
    The initialiser.
  """
  if not through_softplus:
    draw = uniform_init(low, high)
    return lambda *args: jnp.log(draw(*args))
  draw = uniform_init(float(np.log(low)), float(np.log(high)))

  def init(*args):
    x = jnp.exp(draw(*args))
    return x + jnp.log(-jnp.expm1(-x))

  return init
