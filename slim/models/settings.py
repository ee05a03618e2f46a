"""The settings of a language model, and which of them fit each other."""

from typing import NamedTuple

import jax

from slim.kernels import FEATURE_MAPS
from slim.kernels.support.shapes import check_positive_int
from slim.models.block import NORMS
from slim.models.mixers.softmax import ATTENTIONS

DTYPES = ("float32", "float64", "bfloat16")
POSITIONS = ("concatenated", "sinusoidal", "learned", "axial", "rotary")
HASH_ROUNDS = ("sequential", "parallel")


class ModelSettings(NamedTuple):
  """The arguments of `create_model`; by default the SLiM paper's Performer.

  Attributes:
    vocab_size: Number of tokens in the vocabulary.
    width: D.
    num_layers: Layers of attention and MLP.
    num_heads: H; the heads have K = V = D / H.
    mlp_width: F; the paper has 4 D.
    attention: "linear", the Performer. For a Transformer, "softmax" or
      "chunked_softmax", all scores at once or by blocks; "local", to a window;
      or "lsh", the Reformer's. Several of these, as in "local,lsh", are those
      of the first layers, and again of the next.
    feature_map: Of "linear": a name in `slim.kernels.FEATURE_MAPS`, which have
      M = K; or "favor": positive random features, which approximate softmax
      attention.
    num_features: M, for "favor" alone; None: K.
    orthogonal_features: For "favor": see `sample_projection`.
    window: Tokens that a token sees by "local", itself among them.
    bucket_size: Tokens in a bucket of "lsh", on the average, and in the chunks
      that the sorted tokens are cut into.
    num_hashes: Rounds of hashing of "lsh".
    hash_rounds: "sequential" or "parallel"; see `lsh_attention`.
    heads_at_once: Heads of "lsh" that are computed at once, in the memory of so
      many; a divisor of `num_heads`. None: all.
    constant_key: PRNG key of what is drawn but no parameter: the projections of
      "favor", and the rotations of "lsh" where nothing is to be random. They
      are functions of it: an equal key makes an equal model.
    qk_norm: Whether queries and keys have a fixed length; see
      `LinearAttention`. It keeps the sums of "favor" from growing by orders of
      magnitude, without which they cannot be undone, and its estimates good.
    positions: What tells the model of positions: see `Embedding`. "rotary" is
      for softmax alone: features of rotated vectors may be negative.
    max_positions: Tokens that "learned" and "axial" positions are for, at most;
      others need none.
    norm: Where LayerNorm stands: "pre" x + f(LN(x)), "post" LN(x + f(x)),
      "output" x + LN(f(x)). The paper's Copying task has "pre".
    final_norm: Whether a LayerNorm follows the last layer.
    output_projection: Whether a linear map follows the heads.
    reversible: Whether the layers are on two streams, so that the gradient
      keeps the activations of one sublayer; see `slim.kernels.reversible`.
    mlp_chunk_size: Tokens that an MLP sees at once, and keeps the activations
      of; likewise norms, but for "post"; None: all.
    tied_output: Whether the output layer is the embedding's table.
    dropout: Rate, on the embedding and on what each sublayer adds.
    dtype: Of the computation: "float32", "float64" or "bfloat16". Parameters,
      sums and logits are float32 or wider. In bfloat16, compile gradients
      with `slim.training.gradients.COMPILER_OPTIONS`, or "rewind" is not exact.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  mlp_width: int
  attention: str = "linear"
  feature_map: str = "square"
  num_features: int | None = None
  orthogonal_features: bool = True
  window: int | None = None
  bucket_size: int = 64
  num_hashes: int = 2
  hash_rounds: str = "sequential"
  heads_at_once: int | None = None
  constant_key: jax.Array | None = None
  qk_norm: bool = False
  positions: str = "concatenated"
  max_positions: int | None = None
  norm: str = "output"
  final_norm: bool = False
  output_projection: bool = False
  reversible: bool = False
  mlp_chunk_size: int | None = None
  tied_output: bool = False
  dropout: float = 0.0
  dtype: str = "float32"

  @property
  def attentions(self) -> tuple[str, ...]:
    """The attention of each layer."""
    names = tuple(self.attention.split(","))
    return (names * self.num_layers)[: self.num_layers]

  @property
  def is_linear(self) -> bool:
    """Whether it is a Performer."""
    return self.attention == "linear"

  @property
  def is_drawn(self) -> bool:
    """Whether `constant_key` is used."""
    favor = self.is_linear and self.feature_map == "favor"
    return favor or "lsh" in self.attentions

  def check(self) -> None:
    """Raises if a setting is not one of those above, or two do not fit.

    Raises:
      ValueError: It names the setting, what it must be, and what it is.
    """
    check_positive_int("num_layers", self.num_layers)
    names = set(self.attention.split(","))
    if not self.is_linear and not names <= {*ATTENTIONS, "lsh"}:
      raise ValueError(
        f"attention must be 'linear' or some of {(*ATTENTIONS, 'lsh')} with "
        f"commas between them, got {self.attention!r}"
      )
    for name, known in (
      ("feature_map", (*FEATURE_MAPS, "favor")),
      ("hash_rounds", HASH_ROUNDS),
      ("positions", POSITIONS),
      ("norm", NORMS),
      ("dtype", DTYPES),
    ):
      value = getattr(self, name)
      if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")
    sizes = ["vocab_size", "width", "num_heads", "mlp_width"]
    if "local" in names:
      sizes += ["window"]
    if "lsh" in names:
      sizes += ["bucket_size", "num_hashes"]
    if self.positions in ("learned", "axial"):
      sizes += ["max_positions"]
    if self.mlp_chunk_size is not None:
      sizes += ["mlp_chunk_size"]
    for name in sizes:
      check_positive_int(name, getattr(self, name))
    self._check_together()

  def _check_together(self):
    """Raises if two settings do not fit each other."""
    # Of 4, as half of the width is sinusoids, and half of those are cosines.
    if self.width % self.num_heads or self.width % 4:
      raise ValueError(
        "width must be a multiple of num_heads and of 4, got "
        f"width={self.width}, num_heads={self.num_heads}"
      )
    if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
      raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
    is_odd = self.width // self.num_heads % 2
    if self.positions == "rotary" and (self.is_linear or is_odd):
      raise ValueError(
        "positions must be another than 'rotary' for linear attention, and for "
        f"heads of odd width, got attention={self.attention!r}, "
        f"width={self.width}, num_heads={self.num_heads}"
      )
    if self.tied_output and self.positions == "concatenated":
      raise ValueError(
        "tied_output must be False for positions='concatenated', whose table "
        "has half of the width only, got True"
      )
    is_favor = self.is_linear and self.feature_map == "favor"
    if self.num_features is not None and not is_favor:
      raise ValueError(
        f"num_features must be None for feature_map={self.feature_map!r}, "
        "whose features are as many as a head is wide, got "
        f"{self.num_features}"
      )
    if "lsh" in self.attentions and self.heads_at_once is not None:
      check_positive_int("heads_at_once", self.heads_at_once)
      if self.num_heads % self.heads_at_once:
        raise ValueError(
          f"heads_at_once must divide num_heads={self.num_heads}, got "
          f"{self.heads_at_once}"
        )
    if self.reversible and self.norm == "post":
      raise ValueError(
        "norm must be 'pre' or 'output' for reversible layers, as a norm of "
        "the sum cannot be undone, got 'post'"
      )
    if self.is_drawn and self.constant_key is None:
      raise ValueError(
        "constant_key must be a PRNG key for attention='lsh' and for "
        "feature_map='favor', got None"
      )
