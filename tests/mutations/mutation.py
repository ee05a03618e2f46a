"""One planted fault, as the files of this folder list them."""

from typing import NamedTuple


class Mutation(NamedTuple):
  """A fault that is planted."""

  file: str  # Below slim/.
  old: str  # Stands there exactly once.
  new: str
  tests: str  # Files or folders below tests/, with spaces between.
