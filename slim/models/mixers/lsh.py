"""LSH attention: no state, so the sequence has to be given whole."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from slim.kernels import lsh_attention, lsh_buckets
from slim.models.layers import dense_heads
from slim.models.mixers.mixer import REPLAY, Mixed, Site
from slim.models.mixers.multi_head import MultiHead, multi_head_arguments
from slim.models.norms import normalize_heads
from slim.models.positions import rotate
from slim.models.settings import ModelSettings
from slim.settings import SettingError, check_settings, setting
from slim.types import StateKind

HASH_ROUNDS = ("sequential", "parallel")


@dataclasses.dataclass(frozen=True)
class LSHSettings:
  """Settings of LSH attention alone."""

  bucket_size: int = setting(
    64, "For 'lsh': tokens in a bucket, on average, and in a sorted chunk."
  )
  num_hashes: int = setting(2, "For 'lsh': rounds of hashing.")
  hash_rounds: str = setting(
    "sequential",
    "For 'lsh': compute the rounds one after the other, in the memory of one, "
    "or in parallel.",
    choices=HASH_ROUNDS,
  )
  heads_at_once: int | None = setting(
    None,
    "For 'lsh': heads that are computed at once, in the memory of so many; "
    "divides num_heads. None: all.",
  )

  def check(self) -> None:
    """Raises SettingError if a setting cannot work."""
    check_settings(self)


class LSHAttention(MultiHead):
  """Multi-head causal LSH attention, with biases in the queries and values.

  The keys are the queries, scaled to unit length.

  Attributes:
    bucket_size: Tokens in a bucket, on average, and in the chunks that the
      sorted tokens are cut into. From T on, this is full attention.
    num_hashes: Rounds of hashing.
    hash_rounds: "sequential" or "parallel"; see `lsh_attention`.
    heads_at_once: Heads that are computed at once; None: all.
    rotary: Whether queries are rotated by their positions.
  """

  bucket_size: int
  num_hashes: int
  hash_rounds: str
  heads_at_once: int | None
  rotary: bool

  state_kind: ClassVar[StateKind] = "none"
  kept = ()
  is_random = True

  @property
  def needs_frozen_key(self) -> bool:
    """The key of the hashes where nothing is random."""
    return True

  @nn.nowrap
  def init_constants(self, key: jax.Array) -> jax.Array:
    """Returns the key of the hashes where nothing is random."""
    return key

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> None:
    """Returns None: there is no state.

    Raises:
      ValueError: If tokens are to be remembered.
    """
    del batch_size, compensated
    if max_tokens is not None:
      raise ValueError(
        "max_tokens must be None for LSH attention, which sorts the whole "
        f"sequence and remembers nothing, got {max_tokens}"
      )

  @nn.compact
  def __call__(self, x: jax.Array, state: None, site: Site) -> Mixed:
    """Attends from each token to others before it.

    Args:
      x: [B, T, D].
      state: None.
      site: Its keys, or else its constant, are the PRNG keys of the rotations
        that hash a sequence. Its replay is the buckets [B, H, R, T].

    Returns:
      Mixed, whose replay is the buckets.
    """
    batch_size, length = x.shape[:2]
    qk, v = (
      dense_heads(x, self.num_heads, self.head_dim, self.dtype, name)
      for name in ("qk", "v")
    )
    if self.qk_norm:
      qk = normalize_heads(qk, "qk_norm", use_scale=True)
    if self.rotary:
      qk = rotate(qk, jnp.arange(length, dtype=jnp.int32))
    qk = qk.astype(self.dtype)
    keys = site.keys
    if keys is None:
      keys = jnp.broadcast_to(site.constants, batch_size)
    buckets = site.replay
    if buckets is None:

      def hashed(key, qk):
        return lsh_buckets(
          qk[None],
          key,
          num_buckets=2 * max(1, round(length / (2 * self.bucket_size))),
          num_hashes=self.num_hashes,
        )[0]

      buckets = checkpoint_name(jax.vmap(hashed)(keys, qk), REPLAY)
    y = lsh_attention(
      qk,
      v,
      buckets,
      chunk_size=self.bucket_size,
      is_causal=True,
      rounds=self.hash_rounds,
      heads_at_once=self.heads_at_once,
    )
    return Mixed(self.merge(y), None, None, buckets)


def create_lsh(model: ModelSettings, own: LSHSettings) -> LSHAttention:
  """Creates the LSH attention of a layer.

  Args:
    model: The settings of the model.
    own: Those of LSH attention.

  Returns:
    The module.

  Raises:
    SettingError: If settings do not fit.
  """
  if own.heads_at_once is not None and model.num_heads % own.heads_at_once:
    raise SettingError(
      "heads_at_once",
      f"must divide num_heads={model.num_heads}, got {own.heads_at_once}",
    )
  return LSHAttention(
    bucket_size=own.bucket_size,
    num_hashes=own.num_hashes,
    hash_rounds=own.hash_rounds,
    heads_at_once=own.heads_at_once,
    rotary=model.positions == "rotary",
    **multi_head_arguments(model),
  )
