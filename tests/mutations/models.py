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
    "x / (1 - rate)",
    "x",
    MODELS,
  ),
  Mutation(
    "models/layers.py",
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
    "run = jax.checkpoint(run, prevent_cse=not self.is_stacked)",
    "pass",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "counter = 1 + 2 * self.num_layers + layer if",
    "counter = layer if",
    MODELS,
  ),
]
