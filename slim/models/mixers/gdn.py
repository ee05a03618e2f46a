"""Gated DeltaNet: the delta rule with a decay of each head."""

import math

import jax
from flax import linen as nn

from slim.kernels import chunked_gated_linear_attention
from slim.kernels.support.dtypes import at_least_float32
from slim.models.layers import dense
from slim.models.mixers.delta import write_strength
from slim.models.mixers.gated import (
  GatedMixer,
  GatedSettings,
  GatedState,
  gated_arguments,
  log_uniform_init,
  softplus_decay,
  unit_length,
)
from slim.models.mixers.mixer import Mixed, Site
from slim.models.settings import ModelSettings


class GatedDeltaNet(GatedMixer):
  """S_t = α_t S_{t-1} + β_t k_t ⊗ (v_t - k_t · α_t S_{t-1}), y_t = q_t · S_t.

  α = exp(-exp(A) softplus(x W + b)) for each head.

  References:
    Yang et al., 2025, https://arxiv.org/abs/2412.06464. The initial A and b are
    those of its code, and of Mamba-2.
  """

  @nn.compact
  def __call__(self, x: jax.Array, state: GatedState, site: Site) -> Mixed:
    """Mixes x [B, T, D]; see `slim.models.mixers.mixer.Mixer`."""
    del site
    q, k, v, conv = self.project(x, state.conv)
    q, k = unit_length(q) / math.sqrt(self.key_dim), unit_length(k)
    beta = write_strength(self, x)
    log_decay = head_decay(self, x, slowest=1e-2)
    y, memory = chunked_gated_linear_attention(
      q, k, beta * v, log_decay, state.memory, erase=beta * k
    )
    gate = dense(x, self.num_heads * self.value_dim, self.dtype, "gate")
    y = self.finish(y, nn.silu(gate))
    return Mixed(y, state, GatedState(conv, memory), ())


def head_decay(mixer: GatedMixer, x: jax.Array, slowest: float) -> jax.Array:
  """Computes the log decay [B, T, H] of a gate with a time step.

  Args:
    mixer: The mixer, within its compact method.
    x: [B, T, D].
    slowest: The smallest initial exp(A); the largest is 16.

  Returns:
    -exp(A) softplus(x W + b).
  """
  dtype = at_least_float32(mixer.dtype)
  shape = (mixer.num_heads,)
  log_scale = mixer.param(
    "log_scale", log_uniform_init(slowest, 16), shape, dtype
  )
  bias = mixer.param(
    "step_bias",
    log_uniform_init(1e-3, 0.1, through_softplus=True),
    shape,
    dtype,
  )
  step = dense(x, mixer.num_heads, mixer.dtype, "step").astype(dtype)
  return softplus_decay(step + bias[None, None], log_scale[None, None])


def create_gdn(model: ModelSettings, own: GatedSettings) -> GatedDeltaNet:
  """Creates the gated DeltaNet of a layer."""
  return GatedDeltaNet(**gated_arguments(model, own, has_conv=True))
