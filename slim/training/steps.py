"""The two functions of one update: the gradient, and the optimizer's step.

They are compiled as two programs. XLA then reports the temporary memory of the
gradient alone, which is its activation memory.
"""

import math
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from slim.kernels.support.mesh_axes import zeros_like
from slim.kernels.support.random_bits import fold_in
from slim.training.gradients import ValueAndGrad
from slim.types import Batch, Params, Sums, TrainState

Number = Any  # An array [], or a number.


class GradientStep(Protocol):
  """Differentiates the summed loss of a batch."""

  def __call__(
    self, params: Params, batch: Batch, step: ArrayLike, /
  ) -> tuple[Sums, Params]:
    """Returns the sums, and the gradient of `Sums.nll` in `params`."""


class RowsGradientStep(Protocol):
  """Differentiates the summed loss of some rows of a batch."""

  def __call__(
    self,
    params: Params,
    batch: Batch,
    step: ArrayLike,
    first_row: ArrayLike = 0,
    /,
  ) -> tuple[Sums, Params]:
    """As `GradientStep`; `first_row` is the number of the first row."""


class UpdateStep(Protocol):
  """Applies the optimizer to a summed gradient."""

  def __call__(
    self, state: TrainState, gradients: Params, sums: Sums, /
  ) -> tuple[TrainState, jax.Array]:
    """Returns the new state, and the norm of the mean gradient."""


def init_train_state(
  params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the state before the first update.

  Args:
    params: The initial parameters.
    optimizer: The optimizer that will update them.

  Returns:
    The state of step 0.
  """
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_gradient_step(
  value_and_grad: ValueAndGrad,
  *,
  accumulation_steps: int,
  key: jax.Array | None,
) -> RowsGradientStep:
  """Makes the gradient of the summed loss of a batch.

  Row b of the batch of step s has the key fold_in(fold_in(key, s), b). A
  resumed run therefore draws the same dropout masks, and so does a run with
  another `accumulation_steps`, or on another number of devices.

  Args:
    value_and_grad: From `slim.training.gradients`.
    accumulation_steps: A, divides B. The batch is processed in A parts, one
      after the other, with the activation memory of one part.
    key: PRNG key of the randomness in training; None if there is none.

  Returns:
    `gradient_step(params, batch, step, first_row=0) -> (Sums, gradients of
    sums.nll)`. `first_row` is b of the first row that is given.
  """

  def gradient_step(params, batch, step, first_row=0):
    keys = None
    if key is not None:
      rows = first_row + jnp.arange(batch.inputs.shape[0])
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
    zero = jax.tree.map(lambda x: zeros_like(x, like=batch.inputs), shapes)
    return jax.lax.scan(add_part, zero, parts)[0]

  return gradient_step


def make_update_step(
  optimizer: optax.GradientTransformation, skip_above: float | None = None
) -> UpdateStep:
  """Makes the update of the parameters.

  Args:
    optimizer: Transforms the gradient of the mean loss.
    skip_above: The limit of `is_usable`. An update that is not usable is
      skipped, and only the step counts up. None: none is skipped.

  Returns:
    `update_step(state, gradients, sums) -> (state, norm)`. `gradients` are
    those of the summed loss. `sums.weight` divides them; 0 counts as 1. `norm`,
    [], float32, is the norm of the mean gradient before clipping.
  """

  def update_step(state, gradients, sums):
    chex.assert_trees_all_equal_shapes(gradients, state.params)
    # Sums over no tokens are 0.
    weight = jnp.where(sums.weight == 0, 1, sums.weight)
    mean = jax.tree.map(lambda x: x / weight, gradients)
    # Optax raises Python floats to integer powers, which "strict" refuses.
    with jax.numpy_dtype_promotion("standard"):
      updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      norm = optax.tree.norm(mean)
    after = TrainState(state.step + 1, params, opt_state)
    if skip_above is not None:
      usable = is_usable(sums.nll, norm, skip_above)
      before = state._replace(step=after.step)
      after = jax.tree.map(
        lambda new, old: jnp.where(usable, new, old), after, before
      )
    return after, norm

  return update_step


def is_usable(nll: Number, norm: Number, skip_above: float) -> Number:
  """Tells whether an update may be made; works for arrays and for numbers.

  Args:
    nll: [], float32: the summed loss.
    norm: [], float32: the norm of the mean gradient.
    skip_above: The largest norm; inf: any.

  Returns:
    [], bool: whether both are finite, and the norm is not too large.
  """
  is_finite = (abs(nll) < math.inf) & (norm < math.inf)
  return is_finite & (norm <= np.float32(skip_above))
