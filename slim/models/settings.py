"""The settings that all models share; each mixer declares its own beside it."""

import dataclasses

from slim.settings import SettingError, check_settings, setting

NORMS = ("pre", "post", "output")
POSITIONS = ("concatenated", "sinusoidal", "learned", "axial", "rotary")
BOUNDED_POSITIONS = ("learned", "axial")  # Each position has parameters.
DTYPES = ("float32", "float64", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
  """Settings of a language model, whatever mixes its tokens.

  The defaults are those of the Performer in the SLiM paper.
  """

  width: int = setting(256, "D, width of the model; a multiple of 4.")
  num_layers: int = setting(2, "Layers, each of a mixer and an MLP.")
  num_heads: int = setting(4, "H, attention heads; divides the width.")
  num_kv_heads: int | None = setting(
    None,
    "G, heads of keys and values in softmax and local attention; divides "
    "num_heads, and H / G heads of queries share one. None: num_heads.",
  )
  mlp_width: int | None = setting(
    None, "Width of the MLP. None: 4 times the width."
  )
  attention: str = setting(
    "linear",
    "What mixes the tokens of each layer: 'linear' (Performer); 'softmax', "
    "'chunked_softmax' or 'local' (Transformer); 'lsh' (Reformer); "
    "'retention', 'ssd' (Mamba-2), 'gla', 'delta', 'gdn' (gated DeltaNet) or "
    "'kda' (Kimi). A list such as 'gdn,gdn,gdn,softmax' names the mixers of "
    "the first layers and repeats.",
  )
  qk_norm: bool = setting(
    False,
    "Scale queries and keys to a fixed length. Without it, the policy 'rewind' "
    "stores the states of the feature map 'favor' once a chunk. Gated "
    "recurrences ignore it.",
  )
  positions: str = setting(
    "concatenated",
    "How the model knows positions. 'concatenated': half of the embedding is "
    "sinusoids. 'sinusoidal', 'learned' and 'axial' are added to the "
    "embedding. 'rotary' rotates queries and keys of softmax and LSH "
    "attention; gated recurrences need no positions.",
    choices=POSITIONS,
  )
  norm: str = setting(
    "output",
    "Where LayerNorm is, for a sublayer f: 'pre' x + f(LN(x)), 'post' "
    "LN(x + f(x)), 'output' x + LN(f(x)).",
    choices=NORMS,
  )
  final_norm: bool = setting(False, "Add a LayerNorm after the last layer.")
  output_projection: bool = setting(
    False,
    "Add a linear map after the heads of attention. Gated recurrences always "
    "have one.",
  )
  reversible: bool = setting(
    False,
    "Use reversible layers: the gradient keeps the activations of one sublayer "
    "and recomputes the others. Not with norm='post'.",
  )
  stack_layers: bool = setting(
    False,
    "Stack the parameters of equal layers and scan over them, so that compile "
    "time does not grow with depth. num_layers must be a multiple of the "
    "mixers listed in attention. Checkpoints and exported weights fit either "
    "form.",
  )
  mlp_chunk_size: int | None = setting(
    None,
    "Tokens that the MLP, and a norm other than 'post', process at a time. "
    "None: all.",
  )
  tied_output: bool = setting(
    False,
    "Use the embedding table as the output layer. Not with "
    "positions='concatenated'.",
  )
  dtype: str = setting(
    "float32",
    "Type of the computation. Parameters and sums are float32 or wider, and so "
    "are logits, of products in this type. In bfloat16, compile gradients with "
    "slim.training.gradients.COMPILER_OPTIONS.",
    choices=DTYPES,
  )
  dropout: float = setting(
    0.0,
    "Probability that an element of the embedding or of what a sublayer adds "
    "is dropped.",
    minimum=0,
    below=1,
  )

  @property
  def attentions(self) -> tuple[str, ...]:
    """The mixer of each layer, by its name."""
    names = tuple(self.attention.split(","))
    return (names * self.num_layers)[: self.num_layers]

  @property
  def num_blocks(self) -> int:
    """How many layers have parameters of their own; others repeat them stacked.

    It is `num_layers` if layers are not stacked.
    """
    return self._period if self.stack_layers else self.num_layers

  @property
  def _period(self) -> int:
    """How many mixers `attention` lists."""
    return self.attention.count(",") + 1

  @property
  def head_dim(self) -> int:
    """K = V = D / H."""
    return self.width // self.num_heads

  def check(self) -> None:
    """Raises if a setting cannot work, alone or with another.

    Raises:
      SettingError: It names the setting, what it must be, and what it is.
    """
    check_settings(self)
    # Half of the width is sinusoids, and half of those are cosines.
    if self.width % self.num_heads or self.width % 4:
      raise SettingError(
        "width",
        "must be a multiple of num_heads and of 4, got "
        f"width={self.width}, num_heads={self.num_heads}",
      )
    if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
      raise SettingError(
        "num_kv_heads",
        f"must divide num_heads={self.num_heads}, got {self.num_kv_heads}",
      )
    if self.positions == "rotary" and self.head_dim % 2:
      raise SettingError(
        "positions",
        "'rotary' needs heads of even width, got "
        f"width={self.width}, num_heads={self.num_heads}: choose another",
      )
    if self.stack_layers and self.num_layers % self._period:
      raise SettingError(
        "stack_layers",
        "needs num_layers to be a multiple of the mixers in attention, got "
        f"num_layers={self.num_layers}, attention={self.attention!r}",
      )
    if self.tied_output and self.positions == "concatenated":
      raise SettingError(
        "tied_output",
        "must be False for positions='concatenated', whose table has half of "
        "the width only, got True",
      )
    if self.reversible and self.norm == "post":
      raise SettingError(
        "norm",
        "must be 'pre' or 'output' for reversible layers, as a norm of the "
        "sum cannot be undone, got 'post'",
      )
