"""Kernels whose devices communicate, in the modes of all other kernels."""

import functools

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import (
  init_prefix_sums,
  ring_attention,
  sequence_parallel_linear_attention,
)
from slim.kernels.support.dtypes import at_least_float32
from tests.kernels.meshes import TOKENS, make_mesh

SHAPE = (2, 8, 2, 4)


def attend_linearly(q, k, v):
  """Linear attention from no tokens."""
  dtype = at_least_float32(v.dtype)
  state = init_prefix_sums(2, 2, 4, 4, dtype=dtype)
  return sequence_parallel_linear_attention(
    q, k, v, state, axis_name="sequence", block_size=2
  )[0]


# That test_strict_promotion.py leaves to this file.
KERNELS = {
  "sequence_parallel_linear_attention": attend_linearly,
  "ring_attention": functools.partial(ring_attention, axis_name="sequence"),
}


def gradient_of(name):
  """The loss on two devices, and its gradient."""
  attend = jax.shard_map(
    KERNELS[name], mesh=make_mesh(2), in_specs=TOKENS, out_specs=TOKENS
  )
  return jax.value_and_grad(
    lambda args: attend(*args).astype(jnp.float32).sum()
  )


def shapes(dtype):
  """Three arrays whose tokens the devices share."""
  sharding = jax.NamedSharding(make_mesh(2), TOKENS)
  return (jax.ShapeDtypeStruct(SHAPE, dtype, sharding=sharding),) * 3


@pytest.mark.parametrize("name", KERNELS)
def test_strict_promotion(name):
  """Fails if a kernel mixes dtypes or ranks implicitly."""
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    _, gradients = jax.eval_shape(gradient_of(name), shapes("bfloat16"))
  assert {x.dtype for x in gradients} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", KERNELS)
def test_it_is_lowered_for_each_platform(name):
  """Fails if a kernel needs what a CPU, a GPU or a TPU has not."""
  exported = jax.export.export(
    jax.jit(gradient_of(name)), platforms=("cpu", "cuda", "tpu")
  )(shapes("float32"))
  assert exported.nr_devices == 2
  assert exported.serialize()


def test_no_check_of_shard_map_is_needed(x64):
  """Fails if a kernel relies on `check_vma`, which a user may turn off."""
  args = tuple(
    jax.random.uniform(key, SHAPE, "float64")
    for key in jax.random.split(jax.random.key(0), 3)
  )

  def run(check_vma):
    attend = jax.shard_map(
      attend_linearly,
      mesh=make_mesh(2),
      in_specs=TOKENS,
      out_specs=TOKENS,
      check_vma=check_vma,
    )
    return jax.jit(jax.grad(lambda args: (attend(*args) ** 2).sum()))(args)

  for found, right in zip(run(False), run(True), strict=True):
    assert jnp.abs(found - right).max() < 1e-14
