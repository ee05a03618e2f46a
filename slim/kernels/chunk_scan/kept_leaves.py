"""Which leaves of a state are stored before each chunk; the others are undone.

`slim.kernels.scan` lists which kinds of state need to be kept.
"""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class KeptLeaves:
  """The choice, for a state of one structure.

  Attributes:
    structure: Of the state.
    flags: For each leaf whether it is kept.
  """

  structure: jax.tree_util.PyTreeDef
  flags: tuple[bool, ...]

  @classmethod
  def of(cls, kept: Any, state: Any) -> "KeptLeaves":
    """Reads the choice of a user.

    Args:
      kept: Pytree of booleans: the structure of the state, or a prefix of it.
      state: Pytree of arrays.

    Returns:
      The choice.

    Raises:
      ValueError: If the structure does not fit, or a leaf is no boolean.
    """
    leaves, structure = jax.tree.flatten(state)
    try:
      flags = jax.tree.leaves(jax.tree.broadcast(kept, state))
    except ValueError:
      flags = []
    if len(flags) != len(leaves) or any(type(x) is not bool for x in flags):
      raise ValueError(
        "kept must be a pytree of True and False with the structure of state, "
        f"or a prefix of it, {structure}, got {kept!r}"
      )
    return cls(structure, tuple(flags))

  def select(self, state: Any) -> list[jax.Array]:
    """Lists the leaves that are kept."""
    return self._with(state, True)

  def others(self, state: Any) -> list[jax.Array]:
    """Lists the leaves that are undone."""
    return self._with(state, False)

  def merge(self, kept: list[jax.Array], others: list[jax.Array]) -> Any:
    """Makes a state of what `select` and `others` return."""
    from_kept, from_others = iter(kept), iter(others)
    return self.structure.unflatten(
      next(from_kept if flag else from_others) for flag in self.flags
    )

  def _with(self, state, wanted):
    leaves = jax.tree.leaves(state)
    return [
      x for x, flag in zip(leaves, self.flags, strict=True) if flag == wanted
    ]
