"""Expressions over the files of results/: what a document says of them.

`name("key", setting=value)` reads the file `name`: the value of the key in the
row with these settings, a list if several rows have them. Without settings, the
key may also be a note of the whole file. `max`, `min`, `abs`, `len`, arithmetic
and comparisons are Python's:

    memory_vs_length("activation_MiB", tokens=4096, method="full") / 1024
    max(gradient_error_II("ratio")) < 1.2
"""

import ast
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

# Reads a record of results/ by name; raises FileNotFoundError without one.
Read = Callable[[str], dict[str, Any]]

_OPERATORS: dict[type, Callable[..., Any]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.USub: operator.neg,
  ast.Lt: operator.lt,
  ast.LtE: operator.le,
  ast.Gt: operator.gt,
  ast.GtE: operator.ge,
  ast.Eq: operator.eq,
}
_FUNCTIONS = {"max": max, "min": min, "abs": abs, "len": len}
# What `evaluate` raises for an expression that results do not support.
ERRORS = (ValueError, TypeError, KeyError, SyntaxError, FileNotFoundError)


def evaluate(expression: str, read: Read) -> Any:
  """Returns the value of an expression over results.

  Args:
    expression: As in the comments, see above.
    read: Reads the record of a name.

  Returns:
    A number, a boolean or a list.

  Raises:
    ValueError: If it is not such an expression, or no row has the settings.
    FileNotFoundError: If there is no such file.
  """
  return _evaluate(_parse(expression), read)


def select(record: dict[str, Any], key: str, **settings: Any) -> Any:
  """Returns a value of the rows with some settings, or a note of a record.

  Args:
    record: A file of results/.
    key: Of a row, or of the record itself.
    **settings: What the row must have.

  Returns:
    The value, or a list of them if there are several rows.

  Raises:
    ValueError: If there is no such row, or a value is not finite.
  """
  if not settings and key in record:
    return record[key]
  rows = (x for x in record.values() if isinstance(x, list))
  found = [
    row[key]
    for row in itertools.chain(*rows)
    if isinstance(row, dict) and key in row and settings.items() <= row.items()
  ]
  if not found:
    raise ValueError(f"no row has {key} and {settings}")
  # Python's max passes over a NaN.
  if any(isinstance(x, float) and not math.isfinite(x) for x in found):
    raise ValueError(f"{key} is not finite in a row with {settings}")
  return found[0] if len(found) == 1 else found


def refute(condition: str, read: Read) -> str | None:
  """Returns why a condition does not hold, or None if it does.

  Args:
    condition: An expression, usually a comparison.
    read: Reads the record of a name.

  Returns:
    The values that were found, or why there are none.
  """
  try:
    if evaluate(condition, read) is True:
      return None
    tree = _parse(condition)
    sides = [tree]
    if isinstance(tree, ast.Compare):
      sides = [tree.left, *tree.comparators]
    found = ", ".join(f"{_evaluate(side, read):.4g}" for side in sides)
  except ERRORS as error:
    return str(error)
  return f"{ast.unparse(_parse(condition))} is false, found {found}"


def _parse(expression):
  return ast.parse(" ".join(expression.split()), mode="eval").body


def _evaluate(node, read):
  match node:
    case ast.Constant():
      return node.value
    case ast.UnaryOp():
      return _OPERATORS[type(node.op)](_evaluate(node.operand, read))
    case ast.BinOp():
      sides = (_evaluate(x, read) for x in (node.left, node.right))
      return _OPERATORS[type(node.op)](*sides)
    case ast.Compare():
      values = [_evaluate(x, read) for x in (node.left, *node.comparators)]
      pairs = zip(node.ops, values[:-1], values[1:], strict=True)
      return all(_OPERATORS[type(op)](x, y) for op, x, y in pairs)
    case ast.Call(func=ast.Name(id=name)):
      arguments = [_evaluate(x, read) for x in node.args]
      if name in _FUNCTIONS:
        return _FUNCTIONS[name](*arguments)
      settings = {}
      for keyword in node.keywords:  # **{"in": "x"} if Python reserves a name.
        value = ast.literal_eval(keyword.value)
        settings |= value if keyword.arg is None else {keyword.arg: value}
      try:
        return select(read(name), *arguments, **settings)
      except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
  raise ValueError(f"not an expression over results: {ast.unparse(node)}")
