"""A function compiled as a unit: the same result, and memory is freed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels.support.not_inlined import not_inlined
from tests.helpers import assert_gradients_close


def function(scale):
  """A function of trees, which closes over an array."""

  def fn(x, tree):
    y = jnp.sin(scale * x) * tree["factor"]
    return {"y": y, "which": jnp.argmax(y)}, (tree["factor"] + 1,)

  return fn


@pytest.mark.parametrize("is_jitted", [False, True])
def test_result_and_derivatives_are_the_same(x64, is_jitted):
  """Fails if a value, a derivative or a closure changes."""
  random = np.random.default_rng(0)
  x, factor = jnp.asarray(random.normal(size=(2, 3, 4)))

  def run(call):
    def loss(scale, x, factor):
      found, (more,) = call(function(scale), x, {"factor": factor})
      return (jnp.cos(found["y"]) * more).sum(), found

    of_one = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    of_rows = jax.vmap(of_one, (None, 0, 0))
    if not is_jitted:
      return of_one(0.7, x[0], factor[0])
    args = (0.7, x, factor)
    return jax.jit(
      lambda *args: (of_one(args[0], x[0], factor[0]), of_rows(*args))
    )(*args)

  assert_gradients_close(
    run(not_inlined), run(lambda fn, *args: fn(*args)), 1e-14
  )


def compile_loops(call, count):
  """A chain of loops, each of which starts from a megabyte of zeros."""

  def loop(x):
    def turn(i, total):
      return total + jnp.sin(total * x[i])

    return jax.lax.fori_loop(0, 9, turn, jnp.zeros((512, 512))).sum()

  def run(x):
    found = [call(loop, x * i) for i in range(count)]
    return sum(found)

  return jax.jit(run).lower(jnp.zeros(9)).compile()


def test_memory_is_freed():
  """Fails if all layers start before the first has ended."""

  def temporaries(call, count):
    compiled = compile_loops(call, count)
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = (temporaries(not_inlined, count) for count in (2, 8))
  assert many - few <= 2**16, (few, many)


def test_not_merged_with_an_equal_computation():
  """Fails if a recomputation is replaced by the stored first result."""

  def run(x):
    return not_inlined(jnp.sin, x) * jnp.sin(x)

  text = jax.jit(run).lower(jnp.zeros(9)).compile().as_text()
  assert text.count(" call(") == 1
  assert text.count(" sine(") == 2
