"""Faults in the kernels of attention."""

from mutation import Mutation

SOFTMAX = (
  "kernels/softmax/test_definition.py kernels/softmax/test_blocks.py "
  "kernels/softmax/test_transformations.py"
)
LSH = "kernels/lsh"
LINEAR = (
  "kernels/linear/test_attention.py kernels/linear/test_precision.py "
  "kernels/linear/test_arguments.py"
)
FEATURES = (
  "kernels/linear/test_random_features.py kernels/linear/test_projection.py"
)
PREFIX_SUMS = (
  "kernels/linear/test_prefix_sums.py kernels/linear/test_rewinding.py"
)

MUTATIONS = [
  Mutation(
    "kernels/linear/feature_maps.py",
    "return jax.nn.relu(x) + 1e-3",
    "return jax.nn.relu(x)",
    "kernels/linear/test_feature_maps.py",
  ),
  Mutation(
    "kernels/linear/feature_maps.py",
    "jnp.where(x > 0, x + 1,",
    "jnp.where(x > 0, x,",
    "kernels/linear/test_feature_maps.py",
  ),
  Mutation(
    "kernels/linear/random_features.py",
    "exponent -= jnp.square(scaled).sum(-1, keepdims=True) / 2",
    "exponent -= jnp.square(scaled).sum(-1, keepdims=True)",
    FEATURES,
  ),
  Mutation(
    "kernels/linear/random_features.py",
    "return lengths * directions",
    "return directions",
    FEATURES,
  ),
  Mutation(
    "kernels/linear/prefix_sums.py",
    "lambda e, s, a, b: e + _rounding_error(s, a, b)",
    "lambda e, s, a, b: e",
    PREFIX_SUMS,
  ),
  Mutation(
    "kernels/linear/prefix_sums.py",
    "lambda x: -jax.lax.stop_gradient(x), update",
    "lambda x: -x, update",
    PREFIX_SUMS,
  ),
  Mutation(
    "kernels/linear/attention.py",
    "scale = jax.lax.stop_gradient(den)",
    "scale = jnp.ones_like(den)",
    LINEAR,
  ),
  Mutation(
    "kernels/linear/attention.py",
    'den += einsum_f32("bshm,bhm->bsh", q, start.k)',
    "den += 0",
    LINEAR,
  ),
  Mutation(
    "kernels/linear/attention.py",
    'num += einsum_f32("nbhsm,nbhmv->nbhsv", qb, before.kv)',
    "num += 0",
    LINEAR,
  ),
  Mutation(
    "kernels/linear/attention.py",
    'num = einsum_f32("bhm,bhmv->bhv", q, sums.kv)',
    'num = 2 * einsum_f32("bhm,bhmv->bhv", q, sums.kv)',
    LINEAR,
  ),
  Mutation(
    "kernels/support/online_softmax.py",
    "shrink = jnp.exp(self.top - _zero_if_neg_inf(top)[None])",
    "shrink = jnp.exp(self.top)",
    SOFTMAX,
  ),
  Mutation(
    "kernels/support/online_softmax.py",
    "shrink = jnp.exp(self.top - _zero_if_neg_inf(top))\n",
    "shrink = jnp.ones_like(top)\n",
    SOFTMAX,
  ),
  Mutation(
    "kernels/softmax/_cotangents.py",
    "* y.astype(lse.dtype), -1) - lse_ct",
    "* y.astype(lse.dtype), -1) - 0 * lse_ct",
    SOFTMAX,
  ),
  Mutation(
    "kernels/softmax/_cotangents.py",
    "counted = rows.counted_here(i)",
    "counted = None",
    SOFTMAX,
  ),
  Mutation(
    "kernels/support/online_softmax.py",
    "(shrink * self.numerator).sum(0)",
    "self.numerator.sum(0)",
    SOFTMAX,
  ),
  Mutation(
    "kernels/softmax/_grid.py",
    "return self.tokens(i) >= i * self.size",
    "return self.tokens(i) > i * self.size",
    SOFTMAX,
  ),
  Mutation(
    "kernels/softmax/_window.py",
    "seen &= distance <= self.high",
    "seen &= distance < self.high",
    SOFTMAX,
  ),
  Mutation(
    "kernels/softmax/_turns.py",
    "head // heads_per_group",
    "head % heads.num_groups",
    "kernels/softmax/test_turns.py",
  ),
  Mutation(
    "kernels/softmax/_turns.py",
    "cpu=in_turn, default=at_once",
    "cpu=in_turn, default=in_turn",
    "kernels/softmax/test_turns.py",
  ),
  Mutation(
    "kernels/softmax/flax_drop_in.py",
    "is_causal=is_causal,",
    "is_causal=False,",
    "kernels/softmax/test_flax_drop_in.py",
  ),
  Mutation(
    "kernels/lsh/attention.py",
    "jnp.where(lse[..., None] == -jnp.inf, v, y.astype(v.dtype))",
    "y.astype(v.dtype)",
    LSH,
  ),
  Mutation(
    "kernels/lsh/buckets.py",
    "return jnp.where(is_top, top, bottom + rotation.shape[-1])",
    "return jnp.where(is_top, top, bottom)",
    LSH,
  ),
  Mutation(
    "kernels/lsh/_rounds.py",
    "seen = (key != query) & (key < length) & (query < length)",
    "seen = (key < length) & (query < length)",
    LSH,
  ),
  Mutation(
    "kernels/lsh/_rounds.py",
    "((key == query) | (key == query - 1))",
    "(key == query)",
    LSH,
  ),
  Mutation(
    "kernels/lsh/_sequential.py",
    "jnp.where(alone, y_ct, 0).astype(v_ct.dtype)",
    "jnp.zeros_like(v_ct)",
    LSH,
  ),
  Mutation(
    "kernels/lsh/_rounds.py",
    "smallest_unsigned(num_rounds)",
    "jnp.uint8",
    LSH,
  ),
  Mutation(
    "kernels/lsh/_rounds.py",
    "scale.astype(qk.dtype).astype(scale.dtype)",
    "jax.lax.stop_gradient(scale)",
    LSH,
  ),
  Mutation(
    "kernels/lsh/buckets.py",
    "math.prod(factors) - num_buckets",
    "0",
    LSH,
  ),
  Mutation(
    "kernels/lsh/buckets.py",
    "if 3 * low**2 >= num_buckets",
    "if num_buckets % (2 * low) == 0 or low == 2",
    LSH,
  ),
]
