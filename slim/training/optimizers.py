"""Adam, with schedules, gradient clipping and weight decay."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from slim.models.stacking import is_matrix
from slim.settings import SettingError, check_settings, setting


class Schedule(NamedTuple):
  """The shape f of a learning rate schedule."""

  make: Callable[["OptimizerSettings", int], optax.Schedule]
  depends_on_num_steps: bool  # Then a longer run has another f.


# A new schedule is one entry.
SCHEDULES = {
  "constant": Schedule(
    lambda s, num_steps: optax.constant_schedule(1.0),
    depends_on_num_steps=False,
  ),
  "cosine": Schedule(
    lambda s, num_steps: optax.cosine_decay_schedule(
      1.0, num_steps, alpha=s.decay_factor
    ),
    depends_on_num_steps=True,
  ),
  "step": Schedule(
    lambda s, num_steps: optax.piecewise_constant_schedule(
      1.0, {s.decay_at: s.decay_factor}
    ),
    depends_on_num_steps=False,
  ),
}


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """The settings `config.optimizer`; β and ε default to PyTorch's values."""

  learning_rate: float = setting(1e-3, "η, the highest learning rate.")
  schedule: str = setting(
    "constant",
    "Learning rate over the steps: constant; cosine, down to decay_factor · η "
    "at the last step; or step, multiplied by decay_factor from step decay_at "
    "on.",
    choices=tuple(SCHEDULES),
  )
  warmup_steps: int = setting(
    0, "Steps of linear growth up to the learning rate.", minimum=0
  )
  decay_at: int | None = setting(
    None, "The step at which the learning rate drops. For step only."
  )
  decay_factor: float = setting(
    0.1, "Factor of the final learning rate. For cosine and step.", minimum=0
  )
  beta1: float = setting(0.9, "β₁ of Adam.", minimum=0, below=1)
  beta2: float = setting(0.999, "β₂ of Adam.", minimum=0, below=1)
  epsilon: float = setting(1e-8, "ε of Adam, outside of the square root.")
  clip_norm: float | None = setting(
    None,
    "Largest norm of the whole mean gradient; longer ones are scaled down. "
    "None: no clipping.",
  )
  weight_decay: float = setting(
    0.0,
    "λ, decoupled weight decay (AdamW). It applies to matrices, not to biases "
    "and norms.",
    minimum=0,
  )

  def check(self) -> None:
    """Raises if a setting cannot work, alone or with another.

    Raises:
      SettingError: It names the setting, what it must be, and what it is.
    """
    check_settings(self)
    if self.schedule == "step" and self.decay_at is None:
      raise SettingError(
        "decay_at", "must be a step number for schedule='step', got None"
      )


def create_optimizer(
  settings: OptimizerSettings, num_steps: int
) -> optax.GradientTransformation:
  """Creates Adam: clip, scale by the moments, decay, scale by the rate.

  m = β₁ m + (1 − β₁) g,   v = β₂ v + (1 − β₂) g²,
  θ = θ − η_s (m̂ / (√v̂ + ε) + λ θ),   with the bias-corrected m̂ and v̂.

  Args:
    settings: The settings.
    num_steps: Updates in the whole run; only "cosine" depends on it.

  Returns:
    An optax transformation of mean gradients into updates to be added.

  Raises:
    SettingError: If a setting cannot work.
  """
  rate = make_schedule(settings, num_steps)
  transformations = [
    optax.scale_by_adam(
      b1=settings.beta1, b2=settings.beta2, eps=settings.epsilon
    ),
    optax.scale_by_learning_rate(rate),
  ]
  if settings.weight_decay:
    decay = optax.add_decayed_weights(settings.weight_decay, mask=_is_matrix)
    transformations.insert(1, decay)
  if settings.clip_norm is not None:
    clip = optax.clip_by_global_norm(settings.clip_norm)
    transformations.insert(0, clip)
  return optax.chain(*transformations)


def make_schedule(
  settings: OptimizerSettings, num_steps: int
) -> optax.Schedule:
  """Makes the learning rate as a function of the update, counted from 0.

  η_s = η min(1, (s + 1) / warmup_steps) f(s), where f(s) is

    "constant"   1
    "cosine"     half a cosine wave from 1 to decay_factor over num_steps
    "step"       1, and decay_factor for s ≥ decay_at

  Args:
    settings: The settings.
    num_steps: Updates in the whole run.

  Returns:
    A function of the update's number.

  Raises:
    SettingError: If a setting cannot work.
  """
  settings.check()
  factor = SCHEDULES[settings.schedule].make(settings, num_steps)

  def rate(step: jax.Array) -> jax.Array:
    # With s instead of s + 1, the rate of the first update would be 0.
    warmup = jnp.minimum(1.0, (step + 1) / max(settings.warmup_steps, 1))
    return settings.learning_rate * warmup * factor(step)

  return rate


def _is_matrix(params: optax.Params) -> optax.Params:
  """Tells for each parameter whether it is a matrix."""
  return jax.tree_util.tree_map_with_path(is_matrix, params)
