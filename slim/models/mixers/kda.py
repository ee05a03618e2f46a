"""Kimi Delta Attention: the delta rule with a decay of each key channel."""

import jax
from flax import linen as nn

from slim.kernels import chunked_gated_linear_attention
from slim.models.layers import dense
from slim.models.mixers.delta import delta_operands
from slim.models.mixers.gated import (
  GatedMixer,
  GatedSettings,
  GatedState,
  gated_arguments,
)
from slim.models.mixers.mixer import Mixed, Site
from slim.models.mixers.softplus_decay import gate_parameters, softplus_decay
from slim.models.settings import ModelSettings


class KimiDeltaAttention(GatedMixer):
  """S_t = A_t S_{t-1} + β_t k_t ⊗ (v_t - k_t · A_t S_{t-1}), y_t = q_t · S_t.

  A = diag(α), α = exp(-exp(a) softplus(x W₁ W₂ + b)) for each key channel; a
  for each head. The output gate is a sigmoid, of low rank too.

  References:
    Kimi Team, 2025, https://arxiv.org/abs/2510.26692.
  """

  @nn.compact
  def __call__(self, x: jax.Array, state: GatedState, site: Site) -> Mixed:
    """Mixes x [B, T, D]; see `slim.models.mixers.mixer.Mixer`."""
    q, k, v, erase, conv = delta_operands(self, x, state.conv, site)
    bias, log_scale = gate_parameters(
      self, (self.num_heads, self.key_dim), (self.num_heads, 1)
    )
    step = self.to_heads(
      self._low_rank(x, self.num_heads * self.key_dim, "step")
    )
    log_decay = softplus_decay(step.astype(bias.dtype) + bias, log_scale)
    y, memory = chunked_gated_linear_attention(
      q, k, v, site.reset(log_decay), state.memory, erase=erase
    )
    gate = self._low_rank(x, self.num_heads * self.value_dim, "gate")
    y = self.finish(y, nn.sigmoid(gate))
    return Mixed(y, state, GatedState(conv, memory), ())

  def _low_rank(self, x, features, name):
    """Two linear maps, the rank is the width of a head of values."""
    x = dense(x, self.value_dim, self.dtype, f"{name}_in")
    return dense(x, features, self.dtype, name)


def create_kda(model: ModelSettings, own: GatedSettings) -> KimiDeltaAttention:
  """Creates the Kimi Delta Attention of a layer."""
  return KimiDeltaAttention(**gated_arguments(model, own, has_conv=True))
