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
    q, k, v, erase, conv = delta_operands(self, x, state.conv, site)
    no_decay = jnp.zeros(q.shape[:3], q.dtype)
    y, memory = chunked_gated_linear_attention(
      q, k, v, site.reset(no_decay), state.memory, erase=erase
    )
    y = self.finish(y, None)
    return Mixed(y, state, GatedState(conv, memory), ())


def delta_operands(
  mixer: GatedMixer, x: jax.Array, conv: jax.Array | None, site: Site
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]:
  """Computes what the delta rule takes; called within a compact method.

  Args:
    mixer: The mixer.
    x: [B, T, D].
    conv: The state of its convolution.
    site: Where the tokens are.

  Returns:
    q / √K and k, both of length 1 before; β v and β k, the values and what is
    erased; and the next `conv`. β is in (0, 1).
  """
  q, k, v, conv = mixer.project(x, conv, site)
  q, k = unit_length(q) / math.sqrt(mixer.key_dim), unit_length(k)
  beta = dense(x, mixer.num_heads, mixer.dtype, "beta")
  beta = nn.sigmoid(beta.astype(at_least_float32(beta.dtype)))[..., None]
  return q, k, beta * v.astype(beta.dtype), beta * k, conv


def create_delta(model: ModelSettings, own: GatedSettings) -> DeltaNet:
  """Creates the DeltaNet of a layer."""
  return DeltaNet(**gated_arguments(model, own, has_conv=True))
