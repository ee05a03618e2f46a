"""What the gated recurrences share: settings, state, projections and output.

Each is a short convolution of queries, keys and values, the kernel
`chunked_gated_linear_attention`, a norm of each head, and a gate. They need no
positions. Their state decays, so it is kept: see `slim.kernels.scan`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import init_gated_state, short_convolution
from slim.kernels.support.dtypes import at_least_float32
from slim.models.activations import silu
from slim.models.layers import dense, uniform_init
from slim.models.mixers.mixer import Site
from slim.models.mixers.multi_head import MixerModule, mixer_arguments
from slim.models.settings import ModelSettings
from slim.settings import check_settings, setting
from slim.types import StateKind, exportable


@dataclasses.dataclass(frozen=True)
class GatedSettings:
  """Settings that the gated recurrences share."""

  key_dim: int | None = setting(
    None,
    "For 'retention', 'ssd', 'gla', 'delta', 'gdn' and 'kda': K, width of a "
    "head of queries and keys. None: width / num_heads.",
  )
  value_dim: int | None = setting(
    None,
    "For 'retention', 'ssd', 'gla', 'delta', 'gdn' and 'kda': V, width of a "
    "head of values. None: width / num_heads.",
  )
  conv_width: int | None = setting(
    4,
    "For 'ssd', 'delta', 'gdn' and 'kda': tokens that the convolution before "
    "the recurrence sees. None: no convolution.",
  )

  def check(self) -> None:
    """Raises SettingError if a setting cannot work."""
    check_settings(self)


@exportable
class GatedState(NamedTuple):
  """What a gated recurrence remembers of the tokens so far.

  Attributes:
    conv: [B, W - 1, X], the last inputs of the short convolution, or None.
    memory: [B, H, K, V], the state of the kernel.
  """

  conv: jax.Array | None
  memory: jax.Array


class GatedMixer(MixerModule):
  """The base of the gated recurrences.

  Attributes:
    key_dim: K.
    value_dim: V.
    conv_width: W, tokens that the short convolution sees, or None.
  """

  key_dim: int
  value_dim: int
  conv_width: int | None

  state_kind: ClassVar[StateKind] = "fixed"
  kept: ClassVar[Any] = True
  has_documents = True

  @property
  def conv_channels(self) -> int:
    """X, channels of the convolution: all of q, k and v."""
    return self.num_heads * (2 * self.key_dim + self.value_dim)

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> GatedState:
    """Makes the state before the first token."""
    del compensated, max_tokens  # Nothing is undone, nothing grows.
    dtype = at_least_float32(self.dtype)
    conv: jax.Array | None = None
    if self.conv_width is not None:
      shape = batch_size, self.conv_width - 1, self.conv_channels
      conv = jnp.zeros(shape, dtype)
    memory = init_gated_state(
      batch_size, self.num_heads, self.key_dim, self.value_dim, dtype=dtype
    )
    return GatedState(conv, memory)

  def project(
    self, x: jax.Array, conv: jax.Array | None, site: Site
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Computes q, k [B, T, H, K] and v [B, T, H, V], and the next `conv`.

    Called within a compact method, as `convolve` and `finish`, it adds layers
    to that module.
    """
    keys, values = (
      self.num_heads * self.key_dim,
      self.num_heads * self.value_dim,
    )
    qkv = dense(x, 2 * keys + values, self.dtype, "qkv")
    (q, k, v), conv = self.convolve(qkv, [keys, 2 * keys], conv, site)
    return self.to_heads(q), self.to_heads(k), self.to_heads(v), conv

  def convolve(
    self,
    x: jax.Array,
    borders: Sequence[int],
    state: jax.Array | None,
    site: Site,
  ) -> tuple[list[jax.Array], jax.Array | None]:
    """Splits x [B, T, X], after the short convolution and SiLU if it has them.

    SiLU is applied to each part. If it were applied before, XLA would keep one
    more array for the backward pass.

    Args:
      x: [B, T, X].
      borders: Where to split X.
      state: The state of the convolution, or None.
      site: Where the tokens are.

    Returns:
      The parts, and the next `state`.
    """
    if state is None:
      return jnp.split(x, borders, -1), None
    width = state.shape[1] + 1
    bound = 1 / math.sqrt(width)
    weights = self.param(
      "conv", uniform_init(-bound, bound), (width, x.shape[-1]), state.dtype
    )
    y, state = short_convolution(
      x, weights, state, positions=site.document_positions
    )
    return list(map(silu, jnp.split(y, borders, -1))), state

  def to_heads(self, x: jax.Array) -> jax.Array:
    """Splits [B, T, H·X] to [B, T, H, X]."""
    return x.reshape(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)

  def finish(self, y: jax.Array, gate: jax.Array | None) -> jax.Array:
    """Norms each head, gates it, and maps to the width of the model.

    Args:
      y: [B, T, H, V].
      gate: [B, T, H·V], multiplied with the norm; or None.

    Returns:
      [B, T, D].
    """
    dtype = at_least_float32(self.dtype)
    norm = nn.RMSNorm(epsilon=1e-5, dtype=dtype, param_dtype=dtype, name="norm")
    y = norm(y.astype(dtype))
    y = y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])
    if gate is not None:
      y = y * gate.astype(dtype)
    return dense(y.astype(self.dtype), self.width, self.dtype, "out")


def unit_length(x: jax.Array) -> jax.Array:
  """Computes x / √(|x|² + 1e-6) for x [..., K]; float32 or wider."""
  x = x.astype(at_least_float32(x.dtype))
  return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)


def gated_arguments(
  model: ModelSettings, own: GatedSettings, *, has_conv: bool
) -> dict[str, Any]:
  """The attributes of `GatedMixer`.

  Args:
    model: The settings of the model.
    own: Those of gated recurrences.
    has_conv: Whether this family has a short convolution.

  Returns:
    The attributes by name.
  """
  return {
    **mixer_arguments(model),
    "key_dim": own.key_dim or model.head_dim,
    "value_dim": own.value_dim or model.head_dim,
    "conv_width": own.conv_width if has_conv else None,
  }
