"""Gated linear attention: a decay of each key channel."""

import math

import jax
from flax import linen as nn

from slim.kernels import chunked_gated_linear_attention
from slim.kernels.support.dtypes import at_least_float32
from slim.models.activations import silu
from slim.models.layers import dense
from slim.models.mixers.gated import (
  GatedMixer,
  GatedSettings,
  GatedState,
  gated_arguments,
)
from slim.models.mixers.mixer import Mixed, Site
from slim.models.settings import ModelSettings

_GATE_RANK = 16
_TEMPERATURE = 16  # A decay near 1 at the start.


class GatedLinearAttention(GatedMixer):
  """S_t = diag(α_t) S_{t-1} + k_t ⊗ v_t, y_t = q_t · S_t / √K.

  α = sigmoid(x W₁ W₂)^(1/16) for each key channel.

  References:
    Yang et al., 2024, https://arxiv.org/abs/2312.06635.
  """

  @nn.compact
  def __call__(self, x: jax.Array, state: GatedState, site: Site) -> Mixed:
    """Mixes x [B, T, D]; see `slim.models.mixers.mixer.Mixer`."""
    q, k, v, _ = self.project(x, None, site)
    alpha = dense(x, _GATE_RANK, self.dtype, "decay_in")
    alpha = dense(alpha, self.num_heads * self.key_dim, self.dtype, "decay")
    alpha = self.to_heads(alpha.astype(at_least_float32(alpha.dtype)))
    y, memory = chunked_gated_linear_attention(
      q / math.sqrt(self.key_dim),
      k,
      v,
      site.reset(nn.log_sigmoid(alpha) / _TEMPERATURE),
      state.memory,
    )
    gate = dense(x, self.num_heads * self.value_dim, self.dtype, "gate")
    y = self.finish(y, silu(gate))
    return Mixed(y, state, GatedState(None, memory), ())


def create_gla(
  model: ModelSettings, own: GatedSettings
) -> GatedLinearAttention:
  """Creates the gated linear attention of a layer."""
  return GatedLinearAttention(**gated_arguments(model, own, has_conv=False))
