"""Adam, with the schedules and the extras that experiments ask for."""

import jax
import jax.numpy as jnp
import optax


def create_optimizer(
  *,
  learning_rate: float,
  num_steps: int,
  schedule: str = "constant",
  warmup_steps: int = 0,
  decay_at: int | None = None,
  decay_factor: float = 0.1,
  beta1: float = 0.9,
  beta2: float = 0.999,
  epsilon: float = 1e-8,
  clip_norm: float | None = None,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Creates Adam: clip, scale by the moments, decay, scale by the rate.

  m = β₁ m + (1 − β₁) g,   v = β₂ v + (1 − β₂) g²,
  θ = θ − η_s (m̂ / (√v̂ + ε) + λ θ),   with the bias-corrected m̂ and v̂.

  Args:
    learning_rate: η, the highest of the schedule.
    num_steps: Updates in the whole run; only "cosine" depends on it.
    schedule: "constant", "cosine" or "step"; see `make_schedule`.
    warmup_steps: Updates of linear growth at the start.
    decay_at: The update from which "step" is at its lower rate.
    decay_factor: The lower rate of "cosine" and "step", as a part of η.
    beta1: β₁, in [0, 1). This and the next two default to PyTorch's values.
    beta2: β₂, in [0, 1).
    epsilon: ε, outside of the root.
    clip_norm: Gradients longer than this are scaled down to it, over all
      parameters together; None: never.
    weight_decay: λ, decoupled from the gradient (AdamW). Of matrices only:
      biases and the scales of norms are left alone.

  Returns:
    An optax transformation of mean gradients into updates to be added.

  Raises:
    ValueError: If `schedule` is unknown.
  """
  rate = make_schedule(
    learning_rate,
    num_steps=num_steps,
    schedule=schedule,
    warmup_steps=warmup_steps,
    decay_at=decay_at,
    decay_factor=decay_factor,
  )
  parts = [
    optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon),
    optax.scale_by_learning_rate(rate),
  ]
  if weight_decay:
    parts.insert(1, optax.add_decayed_weights(weight_decay, mask=_is_matrix))
  if clip_norm is not None:
    parts.insert(0, optax.clip_by_global_norm(clip_norm))
  return optax.chain(*parts)


def make_schedule(
  learning_rate: float,
  *,
  num_steps: int,
  schedule: str,
  warmup_steps: int,
  decay_at: int | None,
  decay_factor: float,
) -> optax.Schedule:
  """Makes the learning rate as a function of the update, counted from 0.

  η_s = η min(1, (s + 1) / warmup_steps) f(s), where f(s) is

    "constant"   1
    "cosine"     falling from 1 to decay_factor as half a wave over num_steps
    "step"       1, and decay_factor for s ≥ decay_at

  Args:
    learning_rate: η.
    num_steps: Updates in the whole run.
    schedule: The name of f.
    warmup_steps: Updates of linear growth; 0: none.
    decay_at: An update; "step" only.
    decay_factor: At least 0; "cosine" and "step".

  Returns:
    A function of the update's number.

  Raises:
    ValueError: If `schedule` is unknown.
  """
  if schedule == "constant":
    factor = optax.constant_schedule(1.0)
  elif schedule == "cosine":
    factor = optax.cosine_decay_schedule(1.0, num_steps, alpha=decay_factor)
  elif schedule == "step":
    factor = optax.piecewise_constant_schedule(1.0, {decay_at: decay_factor})
  else:
    raise ValueError(
      f"schedule must be one of 'constant', 'cosine', 'step'; got {schedule!r}"
    )

  def rate(step: jax.Array) -> jax.Array:
    # From 1 on, or the first update would be lost to a rate of 0.
    warmup = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
    return learning_rate * warmup * factor(step)

  return rate


def _is_matrix(params: optax.Params) -> optax.Params:
  """Returns which parameters have two axes or more."""
  return jax.tree.map(lambda x: x.ndim > 1, params)
