"""How to differentiate a model over a batch, as an argument.

  method    activations kept                 work   for
  "full"    of all tokens                    3 F    what fits
  "remat"   layer outputs of all tokens      4 F    a little more
  "slim"    of one chunk of C tokens         4 F    any length

F is the work of a forward pass. All three return the same gradient, to
rounding. "slim" computes the logits and the last layer's MLP only once, so it
takes less than 4 F, or less than 5 F with policy "sqrt".
"""

from typing import Any, Protocol

import jax

from slim.kernels import POLICIES, sum_and_grad
from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.shapes import check_positive_int
from slim.training.losses import cross_entropy_sums
from slim.types import Batch, LanguageModel, Params, State, Sums

METHODS = ("full", "remat", "slim")

# For `jax.jit` of a gradient. XLA may skip roundings to bfloat16 in one loop
# and keep them in the other. "rewind" would then subtract a slightly different
# update than was added. Nothing changes in float32.
COMPILER_OPTIONS: dict[str, str | bool] = {"xla_allow_excess_precision": False}


class ValueAndGrad(Protocol):
  """Differentiates the summed loss of a batch."""

  def __call__(
    self, params: Params, batch: Batch, keys: jax.Array | None = None, /
  ) -> tuple[Sums, Params]:
    """Returns the sums, and the gradient of `Sums.nll` in `params`."""


def make_value_and_grad(
  model: LanguageModel,
  *,
  method: str,
  chunk_size: int | None = None,
  policy: str = "rewind",
) -> ValueAndGrad:
  """Makes a function that differentiates the summed loss of a batch.

  Args:
    model: The model; the sequence starts from its initial state.
    method: "full", "remat" or "slim". On x86 CPUs with jax ≤ 0.11.0 XLA undoes
      "remat", which then takes as much memory as "full".
    chunk_size: C, tokens. Only for "slim".
    policy: "rewind", "sqrt" or "store", as for `slim.kernels.sum_and_grad`.
      Only for "slim".

  Returns:
    `value_and_grad(params, batch, keys=None) -> (Sums, gradients)`. The
    gradients are those of `Sums.nll`, like `params`; `keys` are those of
    `LanguageModel.apply`. Compile it with `COMPILER_OPTIONS`.

  Raises:
    ValueError: If the method is unknown or does not fit the model, or C or the
      policy do not.

  References:
    Likhosherstov et al., 2021 (SLiM), Algorithm 1,
    https://arxiv.org/abs/2012.11346.
  """
  if method not in METHODS:
    raise ValueError(f"method must be one of {METHODS}, got {method!r}")
  if method == "slim":
    check_positive_int("chunk_size", chunk_size)
    if policy not in POLICIES:
      raise ValueError(f"policy must be one of {POLICIES}, got {policy!r}")
    _check_chunks(model, policy)

  def dense(params, batch, keys):
    state = start_state(model, params, batch.inputs, keys)
    logits, _ = model.apply(
      params,
      batch.inputs,
      state,
      keys,
      remat=method == "remat",
      **documents_of(batch),
    )
    sums = cross_entropy_sums(logits, batch.targets, batch.weights)
    return sums.nll, sums

  def slim(params, batch, keys):
    step, rewind = _make_sums(model, keys, lambda sums: (sums.nll, sums))
    state = start_state(
      model,
      params,
      batch.inputs,
      keys,
      compensated=policy == "rewind",
      max_tokens=max_tokens_of(model, batch.inputs.shape[1]),
    )
    return sum_and_grad(
      step,
      params,
      state,
      batch,
      chunk_size=chunk_size,
      policy=policy,
      rewind=rewind if policy == "rewind" else None,
      kept=model.kept,
      has_aux=True,
    )

  run = slim if method == "slim" else jax.value_and_grad(dense, has_aux=True)

  def value_and_grad(params, batch: Batch, keys=None):
    (_, sums), gradients = run(params, batch, keys)
    return sums, gradients

  return value_and_grad


def supported_policies(model: LanguageModel) -> tuple[str, ...]:
  """Lists the policies by which "slim" can differentiate a model.

  A cache of all tokens is undone by moving its position back. "store" and
  "sqrt" would store the cache once per chunk.

  Args:
    model: The model, as one device computes it.

  Returns:
    Names in `slim.kernels.POLICIES`, the default of configs first; none if only
    "full" and "remat" work.
  """
  if model.state_kind == "none":
    return ()
  if model.state_kind == "growing":
    is_shared = model.start_state is not None  # By devices.
    return ("rewind",) if model.rewind and not is_shared else ()
  return ("rewind", "store", "sqrt") if model.rewind else ("store", "sqrt")


def _check_chunks(model, policy):
  """Raises ValueError unless "slim" can differentiate the model."""
  if model.state_kind == "none":
    raise ValueError(
      "method must be 'full' or 'remat' for a model that needs the whole "
      "sequence at once, such as one with LSH attention, got 'slim'"
    )
  policies = supported_policies(model)
  if not policies:
    reason = (
      "softmax attention whose tokens several devices share"
      if model.rewind
      else "a model with a cache of all tokens and no function rewind"
    )
    raise ValueError(
      f"method must be 'full' or 'remat' for {reason}, got 'slim'"
    )
  if policy not in policies:
    reason = (
      "a cache of all tokens, such as softmax attention: others would store "
      "the cache once per chunk"
      if model.state_kind == "growing"
      else "no function rewind"
    )
    raise ValueError(
      f"policy must be {' or '.join(map(repr, policies))} for a model with "
      f"{reason}, got {policy!r}"
    )


def max_tokens_of(model: LanguageModel, num_tokens: int) -> int | None:
  """Returns `max_tokens` of `init_state` for a sequence of some tokens."""
  return num_tokens if model.state_kind == "growing" else None


def documents_of(batch: Batch) -> dict[str, jax.Array]:
  """The arguments of `LanguageModel.apply` for the documents of a batch."""
  return {} if batch.positions is None else {"positions": batch.positions}


def start_state(
  model: LanguageModel,
  params: Params,
  tokens: jax.Array,
  keys: jax.Array | None = None,
  **settings: Any,
) -> State | None:
  """Returns the state before the first of some tokens [B, T].

  Args:
    model: The model.
    params: Its parameters.
    tokens: [B, T], int32; those of one device, if several share a sequence.
    keys: Those of `LanguageModel.apply`.
    **settings: Those of `LanguageModel.init_state`.

  Returns:
    The state.
  """
  state = model.init_state(tokens.shape[0], **settings)
  if model.start_state is None:
    return state
  return model.start_state(params, tokens, state, keys)


def make_step(
  model: LanguageModel, keys: jax.Array | None
) -> tuple[StepFn, RewindFn | None]:
  """Makes the step of `slim.kernels.scan` that sums the loss of a model.

  Args:
    model: The model.
    keys: Those of `LanguageModel.apply`.

  Returns:
    `step(params, state, batch) -> (state, Sums)`, with a time axis of 1; and
    the `rewind` of it, None if the model has none.
  """

  def with_time_axis(sums):
    return jax.tree.map(lambda x: x.reshape(1, 1), sums)

  step, rewind = _make_sums(model, keys, with_time_axis)
  return step, None if model.rewind is None else rewind


def _make_sums(model, keys, finish):
  """Makes step and rewind, which return `finish` of the sums of a chunk."""

  def out(logits, chunk):
    return finish(cross_entropy_sums(logits, chunk.targets, chunk.weights))

  def step(params, state, chunk):
    logits, state = model.apply(
      params, chunk.inputs, state, keys, **documents_of(chunk)
    )
    return state, out(logits, chunk)

  def rewind(params, state_after, chunk):
    before, logits, after = model.rewind(
      params, chunk.inputs, state_after, keys, **documents_of(chunk)
    )
    return before, out(logits, chunk), after

  return step, rewind
