"""Reversible layers need memory that does not grow with depth."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import reversible, reversible_scan


@pytest.mark.parametrize("is_scan", [False, True])
def test_memory_does_not_grow_with_the_depth(is_scan):
  """Fails if the activations of all layers are stored."""
  size = 4096 * 64

  def activation_bytes(layers):
    def sublayer(w, x, context, replay):
      if replay is None:
        # XLA recomputes cheaper sublayers from the streams, which it keeps.
        replay = jnp.argmax(x @ x[:64].T, -1).astype(jnp.int8)
      return jnp.tanh(x @ w) * replay[:, None], (), replay

    def loss(w, streams):
      if is_scan:
        out = reversible_scan([sublayer] * 2, [*w], streams, [(), ()])
      else:
        weights = [w[half, i] for i in range(layers) for half in range(2)]
        count = len(weights)
        out = reversible([sublayer] * count, weights, streams, [()] * count)
      return sum(jnp.sin(stream).sum() for stream in out[0])

    w = jax.ShapeDtypeStruct((2, layers, 64, 64), jnp.float32)
    x = jax.ShapeDtypeStruct((4096, 64), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(w, (x, x)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = activation_bytes(2), activation_bytes(6)
  # Per layer: weights, their gradients, and a replay of one byte per row.
  assert many - few <= 8 * (3 * 64 * 64 * 4 + 4096), (few, many)
  assert many <= 12 * size * 4


def test_memory_of_the_forward_pass_does_not_grow():
  """Fails if the initial zeros of all loops are allocated at once."""

  def temporary_bytes(count):
    def sublayer(w, x, context, replay):
      def turn(i, total):
        return total + jnp.sin(total * w + x)

      return jax.lax.fori_loop(0, 9, turn, jnp.zeros_like(x)), (), ()

    def run(w, streams):
      contexts = [()] * count
      return reversible([sublayer] * count, [*w], streams, contexts)[0]

    w = jax.ShapeDtypeStruct((count,), jnp.float32)
    x = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    compiled = jax.jit(run).lower(w, (x, x)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporary_bytes(8), temporary_bytes(32)
  assert many - few <= 24 * 1024, (few, many)
