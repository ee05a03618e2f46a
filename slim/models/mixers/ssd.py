"""State space duality, the recurrence of Mamba-2."""

import jax
import jax.numpy as jnp
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
from slim.models.mixers.softplus_decay import gate_parameters, softplus_decay
from slim.models.settings import ModelSettings


class StateSpaceDuality(GatedMixer):
  """S_t = exp(-Δ_t A) S_{t-1} + b_t ⊗ Δ_t u_t, y_t = c_t · S_t + d u_t.

  Δ = softplus(x W + bias), A and d for each head; b and c [K] are the same for
  all heads. The norm follows the gate.

  References:
    Dao & Gu, 2024, https://arxiv.org/abs/2405.21060.
  """

  @property
  def conv_channels(self) -> int:
    """X: all of u, and one b and one c."""
    return self.num_heads * self.value_dim + 2 * self.key_dim

  @nn.compact
  def __call__(self, x: jax.Array, state: GatedState, site: Site) -> Mixed:
    """Mixes x [B, T, D]; see `slim.models.mixers.mixer.Mixer`."""
    dtype, shape = at_least_float32(self.dtype), (self.num_heads,)
    inner = self.num_heads * self.value_dim
    ubc = dense(x, self.conv_channels, self.dtype, "ubc")
    borders = [inner, inner + self.key_dim]
    (u, b, c), conv = self.convolve(ubc, borders, state.conv, site)
    u = self.to_heads(u).astype(dtype)
    b, c = (
      jnp.broadcast_to(y[:, :, None], (*y.shape[:2], *shape, self.key_dim))
      for y in (b.astype(dtype), c.astype(dtype))  # Cotangents are summed.
    )

    bias, log_scale = gate_parameters(self, shape, shape)
    skip = self.param("skip", nn.initializers.ones, shape, dtype)
    step = dense(x, self.num_heads, self.dtype, "step").astype(dtype) + bias
    y, memory = chunked_gated_linear_attention(
      c,
      b,
      nn.softplus(step)[..., None] * u,
      site.reset(softplus_decay(step, log_scale)),
      state.memory,
    )
    y = y + skip[None, None, :, None] * u
    gate = self.to_heads(dense(x, inner, self.dtype, "gate").astype(dtype))
    y = (y * silu(gate)).reshape(*x.shape[:2], 1, inner)
    return Mixed(self.finish(y, None), state, GatedState(conv, memory), ())


def create_ssd(model: ModelSettings, own: GatedSettings) -> StateSpaceDuality:
  """Creates the state space duality of a layer."""
  return StateSpaceDuality(**gated_arguments(model, own, has_conv=True))
