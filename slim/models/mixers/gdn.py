"""Gated DeltaNet: the delta rule with a decay of each head."""

import jax
from flax import linen as nn

from slim.kernels import chunked_gated_linear_attention
from slim.models.activations import silu
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
    q, k, v, erase, conv = delta_operands(self, x, state.conv, site)
    shape = (self.num_heads,)
    bias, log_scale = gate_parameters(self, shape, shape, slowest=1e-2)
    step = dense(x, self.num_heads, self.dtype, "step").astype(bias.dtype)
    log_decay = softplus_decay(step + bias, log_scale)
    y, memory = chunked_gated_linear_attention(
      q, k, v, site.reset(log_decay), state.memory, erase=erase
    )
    gate = dense(x, self.num_heads * self.value_dim, self.dtype, "gate")
    y = self.finish(y, silu(gate))
    return Mixed(y, state, GatedState(conv, memory), ())


def create_gdn(model: ModelSettings, own: GatedSettings) -> GatedDeltaNet:
  """Creates the gated DeltaNet of a layer."""
  return GatedDeltaNet(**gated_arguments(model, own, has_conv=True))
