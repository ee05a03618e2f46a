"""What tests read in compiled programs."""

import math
import re


def copies_in_loops(program: str, size: int) -> list[str]:
  """Lists copies of large arrays in the bodies of loops.

  Args:
    program: The text of an optimised HLO module.
    size: Elements of the smallest array that counts.

  Returns:
    Their lines.
  """
  found, in_entry = [], False
  for line in program.splitlines():
    if not line.startswith(" "):
      in_entry = line.startswith("ENTRY")
    match = re.search(r"= \w+\[([\d,]+)\]\S* copy\(", line)
    if match and not in_entry:
      if math.prod(map(int, match[1].split(","))) >= size:
        found.append(line.strip())
  return found
