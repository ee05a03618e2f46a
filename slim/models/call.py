"""What all layers of one call of a model share."""

from typing import Any, NamedTuple

import jax

from slim.kernels.support.random_bits import fold_in
from slim.models.mixers.mixer import Site
from slim.models.sequence_axis import SequenceAxis, token_positions


class Call(NamedTuple):
  """A call of a model.

  Attributes:
    position: [], int32, of the first token.
    keys: [B], PRNG keys, or None where nothing is random.
    rewind: Whether the states are those after the tokens.
    remat: Whether the backward pass recomputes each layer from its input.
    sequence_axis: The mesh axis whose devices share the tokens, or None; see
      `slim.models.mixers.mixer.Site`.
    document_positions: [B, T], int32, of the tokens in their documents; None:
      a sequence is one document.
  """

  position: jax.Array
  keys: jax.Array | None
  rewind: bool
  remat: bool
  sequence_axis: SequenceAxis | None = None
  document_positions: jax.Array | None = None

  def positions(self, num_tokens: int) -> jax.Array:
    """Returns the positions [T], int32, of T tokens in the sequence."""
    return token_positions(self.position, num_tokens, self.sequence_axis)

  def site(
    self, constants: Any, counter: jax.Array | int | None, replay: Any
  ) -> Site:
    """Says where a mixer is called.

    Args:
      constants: Those of its layer.
      counter: Folded into the keys, different for each layer; None: nothing is
        random.
      replay: What it must act by, or None.

    Returns:
      The site.
    """
    keys = None
    if self.keys is not None and counter is not None:
      keys = fold_in(self.keys, counter)
    return Site(
      self.position,
      constants,
      keys,
      self.rewind,
      replay,
      self.sequence_axis,
      self.document_positions,
    )
