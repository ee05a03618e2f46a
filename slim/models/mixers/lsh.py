"""LSH attention as a Linen module over the kernels."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import lsh_attention, lsh_buckets
from slim.models.layers import dense, dense_heads
from slim.models.norms import to_fixed_length
from slim.models.positions import rotate


class LSHAttention(nn.Module):
  """Multi-head causal LSH attention, with biases in the queries and values.

  The keys are the queries, at unit length. It remembers nothing of tokens that
  it was given before: a sequence has to be given whole.

  Attributes:
    num_heads: H; divides the width.
    bucket_size: Tokens in a bucket on the average, and in the chunks that the
      sorted tokens are cut into. From T on, it is full attention.
    num_hashes: Rounds of hashing.
    hash_rounds: "sequential" or "parallel"; see `lsh_attention`.
    heads_at_once: Heads that are computed at once; None: all.
    qk_norm: Whether queries have a fixed length, as of `LinearAttention`.
    rotary: Whether queries are rotated by their positions.
    output_projection: Whether a linear map follows the heads.
    dtype: Of the computation; sums are formed in float32 or wider.
  """

  num_heads: int
  bucket_size: int
  num_hashes: int
  hash_rounds: str
  heads_at_once: int | None
  qk_norm: bool
  rotary: bool
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(
    self, x: jax.Array, keys: jax.Array, buckets: jax.Array | None
  ) -> tuple[jax.Array, None, jax.Array]:
    """Attends from each token to others before it.

    Args:
      x: [B, T, D].
      keys: [B], PRNG keys: of the rotations that hash a sequence.
      buckets: [B, H, R, T], the buckets of the tokens where this has been
        computed before; None: they are hashed.

    Returns:
      y: [B, T, D].
      state: None.
      buckets: [B, H, R, T].
    """
    length, width = x.shape[1:]
    qk, v = (
      dense_heads(x, self.num_heads, self.dtype, name) for name in ("qk", "v")
    )
    if self.qk_norm:
      qk = to_fixed_length(qk, "qk_norm", use_scale=True)
    if self.rotary:
      qk = rotate(qk, jnp.arange(length, dtype=jnp.int32))
    qk = qk.astype(self.dtype)
    if buckets is None:

      def hashed(key, qk):
        return lsh_buckets(
          qk[None],
          key,
          num_buckets=2 * max(1, round(length / (2 * self.bucket_size))),
          num_hashes=self.num_hashes,
        )[0]

      buckets = jax.vmap(hashed)(keys, qk)
    y = lsh_attention(
      qk,
      v,
      buckets,
      chunk_size=self.bucket_size,
      is_causal=True,
      rounds=self.hash_rounds,
      heads_at_once=self.heads_at_once,
    )
    y = y.reshape(x.shape)
    if self.output_projection:
      y = dense(y, width, self.dtype, "out")
    return y, None, buckets
