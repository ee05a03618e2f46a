"""The compiled programs of a run: the gradient, the update, the evaluation.

Gradient and update are two programs, so that what XLA reports as the temporary
memory of the first is the activation memory of the gradient method alone, and
not the workspace of the optimizer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slim.kernels.support.random_bits import fold_in
from slim.training.gradients import COMPILER_OPTIONS
from slim.training.losses import cross_entropy_sums
from slim.types import Batch, LanguageModel, Params, State, Sums


class TrainState(NamedTuple):
  """All that changes while training."""

  step: jax.Array  # [], int32: updates done so far.
  params: Params
  opt_state: optax.OptState


def init_train_state(
  params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
  """Starts to train parameters.

  Args:
    params: The parameters.
    optimizer: What updates them.

  Returns:
    The state before the first update.
  """
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_gradient_step(
  value_and_grad: Callable[..., tuple[Sums, Params]],
  *,
  accumulation_steps: int,
  key: jax.Array | None,
) -> Callable[[Params, Batch, jax.Array], tuple[Sums, Params]]:
  """Makes the gradient of the summed loss of a batch.

  Row b of the batch of step s has the key fold_in(fold_in(key, s), b): nothing
  has to be remembered, so a resumed run drops the same, and so does one that
  processes the batch in another number of parts.

  Args:
    value_and_grad: `value_and_grad(params, batch, keys=None) -> (Sums,
      gradients of sums.nll)`, from `slim.training.gradients`.
    accumulation_steps: A, divides B. Parts of the batch, processed one after
      the other with the activation memory of one.
    key: PRNG key of what is random in training; None: nothing is.

  Returns:
    `gradient_step(params, batch, step) -> (Sums, gradients of sums.nll)`.
  """

  def gradient_step(params, batch, step):
    keys = None
    if key is not None:
      rows = jnp.arange(batch.inputs.shape[0])
      keys = fold_in(fold_in(key, step), rows)
    if accumulation_steps == 1:
      return value_and_grad(params, batch, keys)

    def add_part(total, part):
      value = value_and_grad(params, *part)
      return jax.tree.map(jnp.add, total, value), None

    parts = jax.tree.map(
      lambda x: x.reshape(accumulation_steps, -1, *x.shape[1:]), (batch, keys)
    )
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(value_and_grad, params, *first)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add_part, zero, parts)[0]

  return gradient_step


def make_update_step(
  optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Params, jax.Array], tuple[TrainState, jax.Array]]:
  """Makes the update of the parameters.

  Args:
    optimizer: Takes gradients of the mean loss.

  Returns:
    `update_step(state, gradients, weight) -> (state, norm)`: `gradients` are of
    the summed loss and `weight` is what the sum is divided by, 1 if it is 0;
    `norm` [], float32, is the length of the mean gradient before any clipping.
  """

  def update_step(state, gradients, weight):
    weight = jnp.where(weight == 0, 1, weight)  # Sums of nothing are 0.
    mean = jax.tree.map(lambda x: x / weight, gradients)
    # Optax takes powers of Python's numbers by counts, which "strict" refuses.
    with jax.numpy_dtype_promotion("standard"):
      updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      norm = optax.tree.norm(mean)
    return TrainState(state.step + 1, params, opt_state), norm

  return update_step


def make_evaluation_step(
  model: LanguageModel,
) -> Callable[[Params, State, Batch], tuple[Sums, State]]:
  """Makes the loss of some tokens, given a state of those before them.

  Args:
    model: The model.

  Returns:
    `evaluation_step(params, state, batch) -> (Sums, state)`.
  """

  def evaluation_step(params, state, batch):
    logits, state = model.apply(params, batch.inputs, state)
    return cross_entropy_sums(logits, batch.targets, batch.weights), state

  return evaluation_step


def compile_gradient_step(
  gradient_step: Callable[..., Any], params: Params, batch: Batch
) -> tuple[Callable[..., tuple[Sums, Params]], int]:
  """Compiles the gradient, and asks the compiler what memory it needs.

  Args:
    gradient_step: From `make_gradient_step`.
    params: Parameters, or their shapes.
    batch: A batch, or its shapes.

  Returns:
    The compiled `gradient_step`, and its activation memory in bytes: all
    temporary buffers, without arguments and results.
  """
  step = jax.ShapeDtypeStruct((), jnp.int32)
  compiled = (
    jax.jit(gradient_step).lower(params, batch, step).compile(COMPILER_OPTIONS)
  )
  return compiled, compiled.memory_analysis().temp_size_in_bytes


def compile_update_step(
  update_step: Callable[..., Any], state: TrainState
) -> Callable[..., tuple[TrainState, jax.Array]]:
  """Compiles the update, which writes the new state over the old one.

  Args:
    update_step: From `make_update_step`.
    state: A state, or its shapes.

  Returns:
    The compiled `update_step`. The state it is given cannot be used again.
  """
  weight = jax.ShapeDtypeStruct((), jnp.float32)
  jitted = jax.jit(update_step, donate_argnums=0)
  return jitted.lower(state, state.params, weight).compile()
