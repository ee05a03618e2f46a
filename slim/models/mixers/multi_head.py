"""What mixers have in common: the bases of their modules."""

from typing import Any, ClassVar

import jax
from flax import linen as nn

from slim.models.layers import dense, dense_heads
from slim.models.norms import normalize_heads
from slim.models.positions import rotate
from slim.models.settings import ModelSettings
from slim.types import State, TokenOrder


class MixerModule(nn.Module):
  """What all mixers here share.

  Attributes:
    width: D.
    num_heads: H.
    dtype: Of the computation; sums are formed in float32 or wider.
  """

  width: int
  num_heads: int
  dtype: Any

  # Mixers that do, or can, override these.
  is_random = False
  token_order: ClassVar[TokenOrder | None] = None
  has_documents = False

  @property
  def needs_frozen_key(self) -> bool:
    """Whether there are random constants: there are none."""
    return False

  @nn.nowrap
  def init_constants(self, key: jax.Array) -> Any:
    """Makes the constants of a layer; see `Mixer`."""
    del key

  @nn.nowrap
  def start_state(self, state: State, after_first: State) -> State:
    """Returns the state: the first token decides nothing."""
    del after_first
    return state


class MultiHead(MixerModule):
  """What the mixers with attention heads share.

  Attributes:
    qk_norm: Whether queries and keys are scaled to length K^¼, the queries then
      by a learned factor for each dimension of a head. (A factor on the keys
      would do to q · k what one on the queries does, and have no bound.)
    output_projection: Whether a linear map follows the heads.
  """

  qk_norm: bool
  output_projection: bool

  @property
  def head_dim(self) -> int:
    """K = V = D / H."""
    return self.width // self.num_heads

  @property
  def num_groups(self) -> int:
    """G, heads of keys and values: as many as of queries."""
    return self.num_heads

  def project(
    self, x: jax.Array, positions: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes q [B, T, H, K], k and v [B, T, G, K], with biases.

    Called within a compact method, it adds the layers to that module.

    Args:
      x: [B, T, D].
      positions: [T] or [B, T], int32, if they rotate queries and keys.

    Returns:
      q, k, v. Queries and keys may be wider than `dtype`.
    """
    num_heads = {"q": self.num_heads, "k": self.num_groups}
    num_heads["v"] = num_heads["k"]
    q, k, v = (
      dense_heads(x, count, self.head_dim, self.dtype, name)
      for name, count in num_heads.items()
    )
    if self.qk_norm:
      q = normalize_heads(q, "q_norm", use_scale=True)
      k = normalize_heads(k, "k_norm", use_scale=False)
    if positions is not None:
      q, k = rotate(q, positions), rotate(k, positions)
    return q, k, v

  def merge(self, y: jax.Array) -> jax.Array:
    """Joins the heads [B, T, H, V] to [B, T, D]; called as `project`."""
    y = y.reshape(*y.shape[:2], self.width)
    if self.output_projection:
      y = dense(y, self.width, self.dtype, "out")
    return y


def mixer_arguments(settings: ModelSettings) -> dict[str, Any]:
  """The attributes of `MixerModule` for a model."""
  return {
    "width": settings.width,
    "num_heads": settings.num_heads,
    "dtype": jax.numpy.dtype(settings.dtype),
  }


def multi_head_arguments(settings: ModelSettings) -> dict[str, Any]:
  """The attributes of `MultiHead` for a model."""
  return {
    **mixer_arguments(settings),
    "qk_norm": settings.qk_norm,
    "output_projection": settings.output_projection,
  }
