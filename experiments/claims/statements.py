"""Statements of the README and docs, tied to the files of results/.

A number that was measured is followed by a comment that says where it lies, and
a statement by a condition:

    `rewind` needs 44<!--= memory_vs_length("activation_MiB", tokens=4096,
    method="slim, rewind", chunk_size=64) --> MiB.
    <!-- holds: max(reversible_time("ratio")) < 2 -->

`expressions` describes what stands there. The number must be the measured one
with as many decimals; a whole number has three significant digits. A condition
must hold for the committed results and for those of a quick run, which is small
and noisy, so it is about what holds at any size. "holds at full size" is about
the committed results alone.

Blocks between `<!-- begin NAME(…) -->` and `<!-- end -->` are written by the
function of that name.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from claims.expressions import ERRORS, Read, evaluate, refute

# Functions that write a block of Markdown from results.
Blocks = Mapping[str, Callable[..., str]]

_NUMBER = re.compile(r"([\d,]*\d(?:\.\d+)?(?:e[-+]?\d+)?)<!--=(.*?)-->", re.S)
_HOLDS = re.compile(r"<!-- holds( at full size)?:(.*?)-->", re.S)
_BLOCK = re.compile(r"(<!-- begin (.*?) -->\n)(.*?)(<!-- end -->)", re.S)
_FENCED = re.compile(r"^```.*?^```$", re.S | re.M)
_COMMENT = re.compile(r"<!--.*?-->", re.S)


class Failure(NamedTuple):
  """A statement that its results do not support."""

  line: int  # Of the file, from 1.
  sentence: str
  reason: str


def check(text: str, read: Read, quick: bool = False) -> Iterator[Failure]:
  """Compares the statements of a text with results.

  Args:
    text: Markdown.
    read: Reads the record of a name.
    quick: Whether `read` returns records of quick runs. Only conditions that
      hold at any size are checked then.

  Yields:
    What does not hold, in the order of the text.
  """
  for match in _find(_HOLDS, text):
    full_size, condition = match.groups()
    if not (quick and full_size):
      reason = refute(condition, read)
      if reason:
        yield _failure(text, match, reason)
  if quick:
    return
  for match in _find(_NUMBER, text):
    written, expression = match.groups()
    try:
      found = write_number(evaluate(expression, read), like=written)
    except ERRORS as error:
      yield _failure(text, match, str(error))
      continue
    if found != written:
      yield _failure(text, match, f"{written} is written, {found} was measured")


def write(text: str, blocks: Blocks, read: Read) -> str:
  """Writes the measured values and the generated blocks into a text.

  Args:
    text: Markdown.
    blocks: Functions by the name in the comment. They are called with `read`
      and the arguments in the comment, and return lines of Markdown.
    read: Reads the record of a name.

  Returns:
    The new text. What has no result is left as it is, for `check` to find.
  """

  def write_value(match):
    written, expression = match.groups()
    try:
      found = write_number(evaluate(expression, read), like=written)
    except ERRORS:
      return match[0]
    return f"{found}<!--={expression}-->"

  def write_block(match):
    begin, call, _, end = match.groups()
    try:
      return f"{begin}{_call(call, blocks, read)}\n{end}"
    except ERRORS:
      return match[0]

  for pattern, replace in ((_NUMBER, write_value), (_BLOCK, write_block)):
    for match in reversed(list(_find(pattern, text))):
      text = text[: match.start()] + replace(match) + text[match.end() :]
  return text


def check_blocks(text: str, blocks: Blocks, read: Read) -> Iterator[Failure]:
  """Compares the generated blocks of a text with results.

  Args:
    text: Markdown.
    blocks: As for `write`.
    read: Reads the record of a name.

  Yields:
    The blocks that `write` would change or cannot write.
  """
  for match in _find(_BLOCK, text):
    _, call, body, _ = match.groups()
    line = text.count("\n", 0, match.start()) + 1
    try:
      found = _call(call, blocks, read) + "\n"
    except ERRORS as error:
      yield Failure(line, call, f"cannot be written: {error}")
      continue
    if found != body:
      yield Failure(line, call, "is not what the results give: write it anew")


def write_number(value: float, like: str) -> str:
  """Formats a number as it was written before: "1,380" for 1379.8."""
  if isinstance(value, list):
    raise ValueError(f"must be one number, found {len(value)}: use max or min")
  if "e" in like:
    decimals = len(like.partition("e")[0].partition(".")[2])
    mantissa, _, exponent = f"{value:.{decimals}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
  decimals = len(like.partition(".")[2])
  return f"{value if decimals else float(f'{value:.3g}'):,.{decimals}f}"


def _find(pattern, text):
  """Yields the matches outside of fenced blocks, which show examples."""
  fenced = [match.span() for match in _FENCED.finditer(text)]
  for match in pattern.finditer(text):
    if not any(start <= match.start() < end for start, end in fenced):
      yield match


def _failure(text, match, reason):
  """Names the paragraph or the item that a comment belongs to."""
  start, end = match.span()
  start = max(text.rfind("\n\n", 0, start), text.rfind("\n- ", 0, start)) + 1
  stops = [text.find("\n\n", end), text.find("\n- ", end), len(text)]
  sentence = text[start : min(x for x in stops if x >= 0)]
  sentence = " ".join(_COMMENT.sub("", sentence).split())
  return Failure(text.count("\n", 0, match.start()) + 1, sentence, reason)


def _call(call, blocks, read):
  """Calls the function that a block names."""
  node = ast.parse(call.strip(), mode="eval").body
  if not isinstance(node, ast.Call) or ast.unparse(node.func) not in blocks:
    raise ValueError(
      f"a block must be one of {', '.join(blocks)}, got {call!r}"
    )
  arguments = [ast.literal_eval(x) for x in node.args]
  return blocks[ast.unparse(node.func)](read, *arguments)
