"""Faults in the models."""

from mutation import Mutation

MODELS = (
  "models training/test_gradients.py training/test_gradient_precision.py "
  "training/test_gradient_memory.py"
)

MUTATIONS = [
  Mutation(
    "models/language_model.py",
    "position = state_after.position - count_tokens(tokens)",
    "position = state_after.position",
    MODELS,
  ),
  Mutation(
    "models/mixers/linear.py",
    "y = (y.astype(offset.dtype) + offset[:, None])",
    "y = (y)",
    MODELS,
  ),
  Mutation(
    "models/mixers/linear.py",
    "max(64, math.isqrt(k.shape[-1] * v.shape[-1]))",
    "k.shape[1]",
    MODELS,
  ),
  Mutation(
    "models/block.py",
    '"output": [self.mlp, self.mlp_norm]',
    '"output": [self.mlp]',
    MODELS,
  ),
  Mutation(
    "models/layers.py",
    "(y.astype(dtype) + bias[None])",
    "(y + bias[None].astype(self.dtype))",
    "models/test_jax_modes.py",
  ),
  Mutation(
    "models/mixers/lsh.py",
    "checkpoint_name(jax.vmap(hashed)(keys, qk), REPLAY)",
    "jax.vmap(hashed)(keys, qk)",
    "models/reformer/test_gradients.py",
  ),
  Mutation(
    "models/stacking.py",
    "and names[-1] not in _ARRAYS_OF_VECTORS",
    "",
    "models/test_stacking.py",
  ),
  Mutation(
    "models/layers.py",
    "x / (1 - rate)",
    "x",
    MODELS,
  ),
  Mutation(
    "models/activations.py",
    "(cdf + z * density)",
    "cdf",
    MODELS,
  ),
  Mutation(
    "models/layers.py",
    "positions % columns",
    "positions // columns",
    MODELS,
  ),
  Mutation(
    "models/norms.py",
    " - zw * along",
    "",
    MODELS,
  ),
  Mutation(
    "models/positions.py",
    "two * cos + one * sin",
    "two * cos - one * sin",
    MODELS,
  ),
  Mutation(
    "models/mixers/local.py",
    "local_window_size=(num_before, 0),\n        query_offset",
    "local_window_size=(self.window, 0),\n        query_offset",
    MODELS,
  ),
  Mutation(
    "models/mixers/lsh.py",
    "is_causal=True",
    "is_causal=False",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "((one + two) / 2)",
    "(one + two)",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "if call.remat:\n          run =",
    "if False:\n          run =",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "counter = 1 + 2 * self.num_layers + layer if",
    "counter = layer if",
    MODELS,
  ),
]
