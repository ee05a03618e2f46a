"""A mixer that a user might add: an exponential moving average.

  s_t = a s_{t-1} + (1 - a) x_t,   y_t = s_t W.

It is all that `docs/extending.md` asks for: settings, state, module, `create`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels.support.dtypes import at_least_float32
from slim.models.mixers.mixer import Mixed, MixerKind, Site
from slim.models.settings import ModelSettings
from slim.settings import check_settings, setting


@dataclasses.dataclass(frozen=True)
class AverageSettings:
  """Settings of the moving average alone."""

  average_decay: float = setting(
    0.5, "For 'average': a, the decay of a token.", minimum=0, below=1
  )

  def check(self) -> None:
    """Raises SettingError if a setting cannot work."""
    check_settings(self)


class MovingAverage(nn.Module):
  """The mixer; its state is s [B, D]."""

  width: int
  decay: float
  dtype: Any

  state_kind = "fixed"
  kept = True  # The state decays.
  is_random = False
  needs_frozen_key = False
  token_order = None  # All tokens must be on one device.
  has_documents = False  # Packed documents are refused.

  @nn.nowrap
  def init_state(self, batch_size, *, compensated, max_tokens):
    """Makes the average of no tokens."""
    del compensated, max_tokens
    return jnp.zeros((batch_size, self.width), at_least_float32(self.dtype))

  @nn.compact
  def __call__(self, x: jax.Array, state: jax.Array, site: Site) -> Mixed:
    """Averages the tokens so far."""
    del site

    def add(s, x):
      s = self.decay * s + (1 - self.decay) * x.astype(s.dtype)
      return s, s

    after, averages = jax.lax.scan(add, state, jnp.moveaxis(x, 1, 0))
    y = nn.Dense(self.width, dtype=self.dtype, param_dtype=state.dtype)(
      jnp.moveaxis(averages, 0, 1)
    )
    return Mixed(y, state, after, ())


def create_average(model: ModelSettings, own: AverageSettings):
  """Creates the mixer of a layer."""
  return MovingAverage(model.width, own.average_decay, jnp.dtype(model.dtype))


AVERAGE = MixerKind(AverageSettings, create_average)
