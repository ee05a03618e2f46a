"""Retention: a decay that is fixed for each head, and rotated keys."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from slim.kernels import chunked_gated_linear_attention
from slim.models.activations import silu
from slim.models.layers import dense
from slim.models.mixers.gated import (
  GatedMixer,
  GatedSettings,
  GatedState,
  gated_arguments,
)
from slim.models.mixers.mixer import Mixed, Site
from slim.models.positions import rotate
from slim.models.settings import ModelSettings
from slim.settings import SettingError


class Retention(GatedMixer):
  """S_t = γ S_{t-1} + k_t ⊗ v_t, y_t = q_t · S_t / √K, γ_h = 1 - 2^(-5-h).

  Queries and keys are rotated by their positions, whatever the setting
  `positions` adds to the embedding.

  References:
    Sun et al., 2023 (RetNet), https://arxiv.org/abs/2307.08621.
  """

  @nn.compact
  def __call__(self, x: jax.Array, state: GatedState, site: Site) -> Mixed:
    """Mixes x [B, T, D]; see `slim.models.mixers.mixer.Mixer`."""
    q, k, v, _ = self.project(x, None, site)
    positions = site.positions(x.shape[1])
    q, k = rotate(q, positions), rotate(k, positions)
    log_decay = np.log1p(-(2.0 ** (-5 - np.arange(self.num_heads))))
    decay = jnp.asarray(log_decay, state.memory.dtype)
    y, memory = chunked_gated_linear_attention(
      q / math.sqrt(self.key_dim),
      k,
      v,
      site.reset(jnp.broadcast_to(decay, q.shape[:3])),
      state.memory,
    )
    gate = dense(x, self.num_heads * self.value_dim, self.dtype, "gate")
    y = self.finish(y, silu(gate))
    return Mixed(y, state, GatedState(None, memory), ())


def create_retention(model: ModelSettings, own: GatedSettings) -> Retention:
  """Creates the retention of a layer; SettingError if settings do not fit."""
  arguments = gated_arguments(model, own, has_conv=False)
  if arguments["key_dim"] % 2:
    raise SettingError(
      "key_dim",
      "must be even for attention='retention', which rotates pairs, got "
      f"{arguments['key_dim']}",
    )
  return Retention(**arguments)
