"""Faults in chunk scans, reversible layers and what kernels share."""

from mutation import Mutation

SCAN = "kernels/chunk_scan"

MUTATIONS = [
  Mutation(
    "kernels/support/random_bits.py",
    "one, two = _threefry(one, two, word)",
    "pass",
    "kernels/support/test_random_bits.py",
  ),
  Mutation(
    "kernels/support/random_bits.py",
    "words = jnp.stack(hash_words(keys, counters), -1)\n"
    '  return jax.random.wrap_key_data(words, impl="threefry2x32")',
    "return jax.vmap(jax.random.fold_in, (None, 0))(keys, counters)",
    "kernels/support/test_random_bits.py",
  ),
  Mutation(
    "kernels/reversible_layers.py",
    "one_ct, two_ct = two_ct, one_ct + x_ct",
    "one_ct, two_ct = two_ct, one_ct",
    "kernels/reversible",
  ),
  Mutation(
    "kernels/chunk_scan/position_wise.py",
    "lambda x: x.sum(), sums",
    "lambda x: x.mean(), sums",
    "kernels/chunk_scan/test_position_wise.py",
  ),
  Mutation(
    "kernels/support/mesh_axes.py",
    "missing = tuple(set(axes) - _varying(x))",
    "missing = ()",
    SCAN,
  ),
  Mutation(
    "kernels/support/cotangents.py",
    "    raise ValueError(message)",
    "    pass",
    SCAN,
  ),
  Mutation(
    "kernels/support/cotangents.py",
    "jnp.inexact",
    "jnp.floating",
    "kernels/test_leaves.py",
  ),
  Mutation(
    "kernels/chunk_scan/_storing.py",
    "jax.lax.scan(jax.checkpoint(step, prevent_cse=False), state, chunks)",
    "jax.lax.scan(step, state, chunks)",
    f"{SCAN} training/test_gradients.py training/test_gradient_memory.py",
  ),
  Mutation(
    "kernels/chunk_scan/_storing.py",
    "return min(range(1, 2 * math.isqrt(num_chunks) + 1), key=cost)",
    "return num_chunks",
    f"{SCAN} training/test_gradients.py training/test_gradient_memory.py",
  ),
  Mutation(
    "kernels/chunk_scan/_rewinding.py",
    "return (kept.others(before), state_ct, totals), chunk_ct",
    "return (undone, state_ct, totals), chunk_ct",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/_rewinding.py",
    "totals = add_to_sum(totals, params_ct)",
    "totals = totals",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/_walks.py",
    "_set(outs, first + j, out)",
    "_set(outs, j, out)",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/_summing.py",
    "totals = zeros_for_sum(leaves)",
    "totals = [zeros_like(x) for x in leaves]",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/_accumulation.py",
    "    return False  # The total is wider.",
    "    pass",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/chunks.py",
    "if self.first_size < self.size:",
    "if True:",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/chunks.py",
    "return self._cut(xs, self.first_size + i * self.size, self.size)",
    "return self._cut(xs, i * self.size, self.size)",
    SCAN,
  ),
  Mutation(
    "kernels/chunk_scan/_ordered_sums.py",
    "values |= zip(others, unchanged, strict=True)",
    "pass",
    "kernels/chunk_scan/test_ordered_sums.py",
  ),
  Mutation(
    "kernels/chunk_scan/_ordered_sums.py",
    "if isinstance(x, core.Var) and count[x] == 1",
    "if isinstance(x, core.Var)",
    "kernels/chunk_scan/test_ordered_sums.py",
  ),
  Mutation(
    "kernels/chunk_scan/_packing.py",
    "return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])",
    "return x",
    "kernels/chunk_scan/test_ordered_sums.py",
  ),
]
