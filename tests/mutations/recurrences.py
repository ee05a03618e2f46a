"""Faults in gated recurrences, in caches, and in states kept in part."""

from mutation import Mutation

GATED = "kernels/linear/test_gated_attention.py"
APPEND = "kernels/softmax/test_append.py"
KEPT = "kernels/chunk_scan/test_kept.py"
MODELS = "models/mixers/test_recurrences.py"

MUTATIONS = [
  Mutation(
    "kernels/linear/_decay.py",
    "first_left[:, :, -1:] + first_right",
    "first_right",
    GATED,
  ),
  Mutation(
    "kernels/linear/_decay.py",
    "levels.append(Halves(first_right, last_left))",
    "levels.append(Halves(first_right, 0 * last_left))",
    GATED,
  ),
  Mutation(
    "kernels/linear/_triangular.py",
    "corner = -_multiply(_multiply(y, b), x)",
    "corner = -b",
    GATED,
  ),
  Mutation(
    "kernels/linear/_triangular.py",
    "jnp.tril(a_dot, -1)",
    "a_dot",
    GATED,
  ),
  Mutation(
    "kernels/linear/_gated_blocks.py",
    "write=k * jnp.exp(decay.to_end)",
    "write=k * jnp.exp(decay.from_start)",
    GATED,
  ),
  Mutation(
    "kernels/linear/_gated_blocks.py",
    "block.inverse, block.erase)",
    "block.inverse, tokens.erase.reshape(block.erase.shape))",
    GATED,
  ),
  Mutation(
    "kernels/linear/_gated_blocks.py",
    "after += block.decay * before",
    "after += before",
    GATED,
  ),
  Mutation(
    "models/mixers/linear.py",
    "if site.rewind and not self.kept:",
    "if site.rewind:",
    "models/mixers/test_recurrences.py",
  ),
  Mutation(
    "kernels/softmax/append.py",
    "position <= cache[0].shape[1] - k.shape[1]",
    "position <= cache[0].shape[1]",
    "kernels/softmax/test_refusals.py",
  ),
  Mutation(
    "models/layers.py",
    "wrap_negative_indices=False",
    "wrap_negative_indices=True",
    "models/test_layers.py",
  ),
  Mutation(
    "kernels/linear/convolution.py",
    "return y, seen[:, length:]",
    "return y, x[:, 1 - width :]",
    "kernels/linear/test_convolution.py",
  ),
  Mutation(
    "kernels/linear/convolution.py",
    "seen_ct = seen_ct.at[:, length:].add(last_ct)",
    "del last_ct",
    "kernels/linear/test_convolution.py",
  ),
  Mutation(
    "kernels/linear/convolution.py",
    "jnp.sum(part * own, (0, 1))",
    "jnp.sum(part, (0, 1))",
    "kernels/linear/test_convolution.py",
  ),
  Mutation(
    "models/activations.py",
    "(1 + z * (1 - sigmoid))",
    "(1 + z * sigmoid)",
    "models/test_layers.py",
  ),
  Mutation(
    "kernels/softmax/_append_passes.py",
    "set_slice(x, jnp.zeros_like(rows), starts)",
    "x",
    APPEND,
  ),
  Mutation(
    "kernels/softmax/_append_passes.py",
    "totals = Totals(zero_queries(own.q, lse), *own_ct)",
    "totals = Totals(zero_queries(own.q, lse), *zeros_for_sum(own_ct))",
    APPEND,
  ),
  Mutation(
    "kernels/softmax/_window.py",
    "seen &= (columns < self.end)[None, None]",
    "pass",
    APPEND,
  ),
  Mutation(
    "kernels/softmax/_walk.py",
    "self.outer.start(i) < self.outer_end",
    "self.outer.start(i) + self.outer.size <= self.outer_end",
    APPEND,
  ),
  Mutation(
    "kernels/chunk_scan/_walks.py",
    "return (kept.others(before), *carry), outs",
    "return (kept.others(given), *carry), outs",
    KEPT,
  ),
  Mutation(
    "kernels/chunk_scan/_rewinding.py",
    "kept.merge(start, undone),",
    "kept.merge(start, kept.others(last)),",
    KEPT,
  ),
  Mutation(
    "kernels/chunk_scan/_summing.py",
    "state = walk.kept.merge(walk.kept.select(args.state), undone)",
    "state = walk.kept.merge(walk.kept.select(start), undone)",
    KEPT,
  ),
  Mutation(
    "models/mixers/softmax.py",
    "before = after if site.rewind else state",
    "before = None",
    MODELS,
  ),
  Mutation(
    "models/mixers/softplus_decay.py",
    "jnp.minimum(log_scale, 20)",
    "log_scale",
    MODELS,
  ),
]
