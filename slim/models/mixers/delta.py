"""DeltaNet: a state that replaces what it holds for a key."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import chunked_gated_linear_attention
from slim.kernels.support.dtypes import at_least_float32
from slim.models.layers import dense
from slim.models.mixers.gated import (
  GatedMixer,
  GatedSettings,
  GatedState,
  gated_arguments,
  unit_length,
)
from slim.models.mixers.mixer import Mixed, Site
from slim.models.settings import ModelSettings


class DeltaNet(GatedMixer):
  """S_t = S_{t-1} + β_t k_t ⊗ (v_t - k_t · S_{t-1}), y_t = q_t · S_t.

  Queries and keys have length 1, β is a sigmoid for each head.

  References:
    Yang et al., 2024, https://arxiv.org/abs/2406.06484.
  """

  @nn.compact
  def __call__(self, x: jax.Array, state: GatedState, site: Site) -> Mixed:
    """Mixes x [B, T, D]; see `slim.models.mixers.mixer.Mixer`."""
    del site
    q, k, v, conv = self.project(x, state.conv)
    q, k = unit_length(q) / math.sqrt(self.key_dim), unit_length(k)
    beta = write_strength(self, x)
    y, memory = chunked_gated_linear_attention(
      q,
      k,
      beta * v,
      jnp.zeros(q.shape[:3], q.dtype),
      state.memory,
      erase=beta * k,
    )
    y = self.finish(y, None)
    return Mixed(y, state, GatedState(conv, memory), ())


def write_strength(mixer: GatedMixer, x: jax.Array) -> jax.Array:
  """Computes β [B, T, H, 1] in (0, 1); called within a compact method."""
  beta = dense(x, mixer.num_heads, mixer.dtype, "beta")
  return nn.sigmoid(beta.astype(at_least_float32(beta.dtype)))[..., None]


def create_delta(model: ModelSettings, own: GatedSettings) -> DeltaNet:
  """Creates the DeltaNet of a layer."""
  return DeltaNet(**gated_arguments(model, own, has_conv=True))
