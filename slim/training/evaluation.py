"""The loss of a model over a split of the data: sums over tokens, by chunks."""

import itertools
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from slim.data import Dataset
from slim.kernels import scan
from slim.scale import BatchLayout, shard_evaluation_step
from slim.training.gradients import make_step, max_tokens_of, start_state
from slim.types import Batch, LanguageModel, Params, State, Sums


class EvaluationStep(Protocol):
  """Scores a batch, given the state of the tokens before it."""

  def __call__(
    self, params: Params, state: State, batch: Batch, /
  ) -> tuple[Sums, State]:
    """Returns the sums of each chunk, [1, N], and the state after the batch."""


def make_evaluation_step(
  model: LanguageModel, chunk_size: int
) -> EvaluationStep:
  """Makes the loss of a batch, computed chunk by chunk.

  Args:
    model: The model.
    chunk_size: C, tokens. As in training, a remainder is the first chunk. A
      model without a state needs C ≥ T.

  Returns:
    `evaluation_step(params, state, batch) -> (Sums, state)`. Jit it. It raises
      ValueError if there is no state and C < T.

  Memory: the activations of a forward pass over C tokens.
  """
  step, _ = make_step(model, None)

  def evaluation_step(params, state, batch):
    length = batch.inputs.shape[1]
    if state is None and length > chunk_size:
      raise ValueError(
        f"chunk_size must be at least T = {length} without a state, got "
        f"{chunk_size}"
      )
    state, sums = scan(step, params, state, batch, chunk_size=chunk_size)
    return sums, state

  return evaluation_step


def make_evaluation(
  model: LanguageModel,
  dataset: Dataset,
  *,
  batch_size: int,
  chunk_size: int,
  num_batches: int | None = None,
  carry_state: bool = False,
) -> Callable[[Params], Sums]:
  """Makes the evaluation of parameters on a split.

  Args:
    model: The model.
    dataset: The split.
    batch_size: B, sequences to compute at a time. Divides those in a batch of
      the dataset.
    chunk_size: C, tokens; see `make_evaluation_step`.
    num_batches: How many batches to evaluate; None: the whole split.
    carry_state: Whether a batch continues from the state after the batch before
      it. Otherwise each starts from the initial state.

  Returns:
    `evaluate(params) -> Sums`, totals over all tokens, added in float64. It
    compiles at its first call.

  Raises:
    ValueError: If a state is to be carried that the model does not have, or
      that grows.
  """
  if carry_state and model.state_kind != "fixed":
    raise ValueError(
      "carry_state must be False for a model whose state_kind is "
      f"{model.state_kind!r}"
    )
  evaluation_step = jax.jit(make_evaluation_step(model, chunk_size))

  def evaluate(params):
    found = []
    for batch in _parts(dataset, num_batches, batch_size):
      if not (carry_state and found):
        max_tokens = _max_tokens(model, batch.inputs.shape[1], chunk_size)
        state = model.init_state(batch_size, max_tokens=max_tokens)
      sums, state = evaluation_step(params, state, batch)
      found.append(sums)
    return _add(found)

  return evaluate


def make_sharded_evaluation(
  model: LanguageModel,
  dataset: Dataset,
  layout: BatchLayout,
  *,
  batch_size: int,
  params: Params,
  num_batches: int | None = None,
) -> Callable[[Params], Sums]:
  """Makes the evaluation of parameters on a split, by all devices of a mesh.

  Args:
    model: The model, as each device computes it.
    dataset: The split.
    layout: How its batches lie on the mesh.
    batch_size: As for `make_evaluation`, sequences on all devices together.
    params: The parameters, or their shapes.
    num_batches: How many batches to evaluate; None: the whole split.

  Returns:
    `evaluate(params) -> Sums`, as from `make_evaluation`.
  """
  chunk_size = layout.chunk_size or layout.num_tokens
  of_chunks = make_evaluation_step(model, chunk_size)

  max_tokens = _max_tokens(model, layout.num_tokens, chunk_size)

  def of_device(params, batch):
    state = start_state(model, params, batch.inputs, max_tokens=max_tokens)
    return of_chunks(params, state, batch)[0]

  evaluation_step = jax.jit(
    shard_evaluation_step(of_device, layout.mesh, params)
  )

  def evaluate(params):
    found = []
    for batch in _parts(dataset, num_batches, batch_size):
      count = len(batch.inputs)
      batch = layout.put(batch, count, slice(0, count))
      found.append(evaluation_step(params, batch))
    return _add(found)

  return evaluate


def _parts(dataset, num_batches, batch_size):
  """Yields the rows of the first batches, so many at a time."""
  for batch in itertools.islice(dataset.evaluation_batches(), num_batches):
    for start in range(0, len(batch.inputs), batch_size):
      rows = slice(start, start + batch_size)
      yield jax.tree.map(lambda x, rows=rows: x[rows], batch)


def _max_tokens(model, num_tokens, chunk_size):
  """Returns the room that a cache needs; None if there is a single chunk."""
  return max_tokens_of(model, num_tokens) if chunk_size < num_tokens else None


def _add(found):
  """Adds the sums of batches."""
  # Transfer them after the loop, so that the device never waits for the host.
  found = jax.device_get(found)
  return Sums(*(np.sum(x, dtype=np.float64) for x in zip(*found, strict=True)))
