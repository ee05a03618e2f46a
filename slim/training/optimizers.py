"""Optimizers of optax, with schedules, gradient clipping and weight decay."""

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


def _scale_by_adafactor(settings: "OptimizerSettings"):
  """Adafactor without its own learning rate, momentum and weight decay."""
  del settings
  return optax.chain(optax.adafactor(), optax.scale(-1))


def _scale_by_muon(settings: "OptimizerSettings"):
  """Muon for the matrices of layers, Nesterov's Adam for all others."""

  def dimensions(path, x):
    names = [str(getattr(key, "key", key)) for key in path]
    if is_matrix(path, x) and any(x.startswith("layer") for x in names):
      return optax.contrib.MuonDimensionNumbers(-2, -1)  # Others are a batch.
    return None

  muon = optax.contrib.muon(
    1.0,
    beta=settings.beta1,
    adam_b1=settings.beta1,
    adam_b2=settings.beta2,
    eps=settings.epsilon,
    consistent_rms=0.2,  # Steps as large as those of Adam.
    muon_weight_dimension_numbers=lambda params: (
      jax.tree_util.tree_map_with_path(dimensions, params)
    ),
  )
  return optax.chain(muon, optax.scale(-1))


def _scale_by_adam(settings: "OptimizerSettings"):
  """Adam."""
  return optax.scale_by_adam(
    b1=settings.beta1, b2=settings.beta2, eps=settings.epsilon
  )


# From mean gradients to directions, which the learning rate scales. A new
# optimizer is one entry.
OPTIMIZERS: dict[
  str, Callable[["OptimizerSettings"], optax.GradientTransformation]
] = {
  "adam": _scale_by_adam,
  "adamw": _scale_by_adam,
  "adafactor": _scale_by_adafactor,
  "lion": lambda s: optax.scale_by_lion(b1=s.beta1, b2=s.beta2),
  "muon": _scale_by_muon,
  "sgd": lambda s: optax.trace(decay=s.beta1),
}


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """The settings `config.optimizer`; β and ε default to PyTorch's values."""

  name: str = setting(
    "adam",
    "Optimizer, with the update rule of optax: adam; adamw, with "
    "weight_decay; adafactor, whose steps are relative to the parameters; "
    "lion; muon, for the matrices of layers, with Nesterov's Adam for the "
    "rest; sgd, with momentum.",
    choices=tuple(OPTIMIZERS),
  )
  learning_rate: float = setting(1e-3, "η, the highest learning rate.")
  schedule: str = setting(
    "constant",
    "Learning rate over the steps: constant; cosine, to decay_factor · η after "
    "the last step; or step, multiplied by decay_factor from step decay_at "
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
  beta1: float = setting(
    0.9, "β₁ of Adam, lion and muon; momentum of sgd.", minimum=0, below=1
  )
  beta2: float = setting(
    0.999,
    "β₂ of Adam and lion, and of Adam in muon; 0.99 is usual for lion.",
    minimum=0,
    below=1,
  )
  epsilon: float = setting(1e-8, "ε of Adam, outside of the square root.")
  clip_norm: float | None = setting(
    None,
    "Largest norm of the whole mean gradient; longer ones are scaled down. "
    "None: no clipping.",
  )
  weight_decay: float = setting(
    0.0,
    "λ, decoupled weight decay. It applies to matrices, not to biases and "
    "norms. Not for adam: see adamw.",
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
    if self.name == "adam" and self.weight_decay:
      raise SettingError(
        "weight_decay",
        "must be 0 for name='adam', which has none: use 'adamw', got "
        f"{self.weight_decay}",
      )


def create_optimizer(
  settings: OptimizerSettings, num_steps: int
) -> optax.GradientTransformation:
  """Creates an optimizer: clip, find a direction, decay, scale by the rate.

  θ = θ − η_s (u + λ θ), where u depends on the gradients g so far:

    "adam", "adamw"  m̂ / (√v̂ + ε), with m = β₁ m + (1 − β₁) g and
                     v = β₂ v + (1 − β₂) g², both bias-corrected
    "sgd"            m = β₁ m + g
    "lion"           sign(β₁ m + (1 − β₁) g), m = β₂ m + (1 − β₂) g
    "adafactor"      Shazeer & Stern, 2018, https://arxiv.org/abs/1804.04235
    "muon"           Liu et al., 2025, https://arxiv.org/abs/2502.16982

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
    OPTIMIZERS[settings.name](settings),
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
