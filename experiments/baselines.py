"""What experiments compare: every policy, `full`, and code without slim."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels import POLICIES
from slim.training.gradients import make_value_and_grad, max_tokens_of
from slim.training.losses import cross_entropy_sums
from slim.types import Batch, LanguageModel, Sums


def gradient_methods(
  model: LanguageModel,
  sequence_length: int,
  chunk_sizes: tuple[int, ...],
  *,
  two_level: bool = False,
) -> dict[tuple[str, int], Callable[..., tuple[Sums, Any]]]:
  """Makes the gradient of a model by each method, `full` first.

  Args:
    model: The model.
    sequence_length: T.
    chunk_sizes: The values of C for all methods except `full`. They divide T.
      Values that are not below T are left out.
    two_level: Whether to add "two-level lax.scan(jax.checkpoint)".

  Returns:
    `value_and_grad(params, batch)` by method and C: ("full", T), and for each C
    "lax.scan(jax.checkpoint)" and the policies of `slim`.
  """
  methods = {
    ("full", sequence_length): make_value_and_grad(model, method="full")
  }
  for chunk_size in chunk_sizes:
    if chunk_size >= sequence_length:
      continue
    methods["lax.scan(jax.checkpoint)", chunk_size] = (
      scan_checkpoint_value_and_grad(model, chunk_size)
    )
    if two_level:
      methods["two-level lax.scan(jax.checkpoint)", chunk_size] = (
        scan_checkpoint_value_and_grad(model, chunk_size, two_level=True)
      )
    for policy in POLICIES:
      methods[f"slim, {policy}", chunk_size] = make_value_and_grad(
        model, method="slim", chunk_size=chunk_size, policy=policy
      )
  return methods


def scan_checkpoint_value_and_grad(
  model: LanguageModel, chunk_size: int, *, two_level: bool = False
) -> Callable[..., tuple[Sums, Any]]:
  """Makes the gradient through `lax.scan(jax.checkpoint(step))`.

  Args:
    model: The model.
    chunk_size: C, a divisor of T.
    two_level: Whether to scan over groups of chunks, and to checkpoint groups
      as well as chunks. With N chunks, the number of groups is the largest
      divisor of N up to √N. About 2 √N states are stored then, but all N of
      them if N is prime.

  Returns:
    `value_and_grad(params, batch) -> (Sums, gradients of Sums.nll)`.
  """

  def value_and_grad(params, batch: Batch):
    def cut(x):
      x = x.reshape(x.shape[0], -1, chunk_size)
      return jnp.moveaxis(x, 1, 0)

    def nll(params):
      @jax.checkpoint
      def step(state, chunk):
        logits, state = model.apply(params, chunk.inputs, state)
        return state, cross_entropy_sums(logits, chunk.targets, chunk.weights)

      @jax.checkpoint
      def step_group(state, group):
        return jax.lax.scan(step, state, group)

      batch_size, length = batch.inputs.shape
      state = model.init_state(
        batch_size, max_tokens=max_tokens_of(model, length)
      )
      chunks = jax.tree.map(cut, batch)
      if two_level:
        groups = jax.tree.map(_group, chunks)
        _, sums = jax.lax.scan(step_group, state, groups)
      else:
        _, sums = jax.lax.scan(step, state, chunks)
      sums = jax.tree.map(jnp.sum, sums)
      return sums.nll, sums

    (_, sums), gradients = jax.value_and_grad(nll, has_aux=True)(params)
    return sums, gradients

  return value_and_grad


def _group(x):
  """Reshapes [N, …] to [n, N / n, …] with the largest n up to √N."""
  count = len(x)
  groups = max(n for n in range(1, math.isqrt(count) + 1) if count % n == 0)
  return x.reshape(groups, count // groups, *x.shape[1:])


def probabilities_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  is_causal: bool,
  mask_fn: None = None,
) -> jax.Array:
  """Computes causal softmax attention and keeps only its probabilities.

  A backward pass that does not recompute scores needs at least one array of T²
  per head. Automatic differentiation also keeps the exponentials. The arguments
  are those of `slim.kernels.softmax_attention`.

  Args:
    q: [B, T, H, K], float.
    k: [B, T, H, K], float.
    v: [B, T, H, V], float.
    is_causal: True.
    mask_fn: None.

  Returns:
    [B, T, H, V].

  Raises:
    ValueError: If `is_causal` is False or there is another mask.
  """
  if not is_causal or mask_fn is not None:
    raise ValueError("is_causal must be True and mask_fn None")
  return _attend(q / q.shape[-1] ** 0.5, k, v)


def gradient_of(attend: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Makes `run(*inputs, y_ct)`, the gradient of an attention function.

  Args:
    attend: A function of arrays.

  Returns:
    A function of the same arrays and of the cotangent of the result. It returns
    the cotangents of the arrays.
  """

  def run(*args):
    *inputs, y_ct = args
    return jax.vjp(attend, *inputs)[1](y_ct)

  return run


@jax.custom_vjp
def _attend(q, k, v):
  return _attend_forward(q, k, v)[0]


def _attend_forward(q, k, v):
  scores = jnp.einsum("bthk,bshk->bhts", q, k)
  sees = jnp.tri(q.shape[1], dtype=bool)
  p = jax.nn.softmax(jnp.where(sees, scores, -jnp.inf))
  return jnp.einsum("bhts,bshv->bthv", p, v), (q, k, v, p)


def _attend_backward(saved, y_ct):
  q, k, v, p = saved
  p_ct = jnp.einsum("bthv,bshv->bhts", y_ct, v)
  scores_ct = p * (p_ct - (p * p_ct).sum(-1, keepdims=True))
  return (
    jnp.einsum("bhts,bshk->bthk", scores_ct, k),
    jnp.einsum("bhts,bthk->bshk", scores_ct, q),
    jnp.einsum("bhts,bthv->bshv", p, y_ct),
  )


_attend.defvjp(_attend_forward, _attend_backward)
