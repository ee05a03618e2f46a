"""What slim and other libraries compute, and the arrays that they get."""

from typing import Any, NamedTuple

import numpy as np

_HEAD_DIM = 64
_CHUNK_SIZE = 64  # Of LSH attention.
_NUM_HASHES = 2
# Recurrences, and their names in jax-linear-attention.
_RECURRENCES = {
  "SSD": "simple_gla",
  "GLA": "gla",
  "GDN": "gated_deltanet",
  "KDA": "kda",
}
# By operation: the module and the settings of each library.
PEERS = {
  "softmax": {
    "jax.nn": ("in_slim", {}),
    "PyTorch": ("in_torch", {}),
    "PyTorch, math": ("in_torch", {"backend": "MATH"}),
    "PyTorch, flash": ("in_torch", {"backend": "FLASH_ATTENTION"}),
    "PyTorch, memory-efficient": (
      "in_torch",
      {"backend": "EFFICIENT_ATTENTION"},
    ),
  },
  "linear": {
    "performer-pytorch": ("in_torch", {}),
    "jax-linear-attention": ("in_jla", {}),
  },
  **{
    operation: {"jax-linear-attention": ("in_jla", {"kind": kind})}
    for operation, kind in _RECURRENCES.items()
  },
  "LSH": {"Reformer of transformers": ("in_torch", {})},
}


class Case(NamedTuple):
  """An operation and its sizes."""

  operation: str
  tokens: int
  heads: int
  is_causal: bool

  def settings(self) -> dict[str, Any]:
    """Returns arguments of the functions in experiments/peers."""
    return {
      "softmax": {"is_causal": self.is_causal},
      "LSH": {
        "is_causal": self.is_causal,
        "heads": self.heads,
        "chunk_size": _CHUNK_SIZE,
      },
    }.get(self.operation, {})


CASES = (
  *(
    Case("softmax", tokens, heads, is_causal)
    for tokens, heads in ((1024, 8), (4096, 8), (16384, 1))
    for is_causal in (False, True)
  ),
  *(Case("linear", tokens, 8, True) for tokens in (4096, 16384)),
  *(Case(name, 4096, 8, True) for name in _RECURRENCES),
  *(Case("LSH", 4096, 8, is_causal) for is_causal in (False, True)),
)


def make_inputs(case: Case) -> dict[str, np.ndarray]:
  """Makes the arrays of an operation.

  Args:
    case: The operation.

  Returns:
    The arrays by name, in the order of the functions in `experiments/peers`.
    The last is `y_ct`, the cotangent of the result. Where it is zero, libraries
    may compute something else.
  """
  random = np.random.default_rng(0)

  def normal(*shape):
    return random.normal(size=shape).astype(np.float32)

  if case.operation == "LSH":
    return _lsh_inputs(normal, case)
  shape = 1, case.tokens, case.heads, _HEAD_DIM
  arrays = {name: normal(*shape) for name in ("q", "k", "v", "y_ct")}
  if case.operation == "linear":
    projection = normal(_HEAD_DIM, _HEAD_DIM)
    return {"projection": projection} | arrays
  if case.operation in _RECURRENCES:
    return _gated_inputs(normal, case.operation, **arrays)
  return arrays


def _gated_inputs(normal, operation, q, k, v, y_ct):
  """Makes inputs of a recurrence: keys of length 1, weak and strong decays."""
  q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
  per_channel = operation in ("GLA", "KDA")
  gates = {"log_decay": -np.exp(normal(*q.shape[: 3 + per_channel]) - 2)}
  if operation in ("GDN", "KDA"):
    gates["beta"] = 1 / (1 + np.exp(-normal(*q.shape[:3])))
  return {"q": q, "k": k, "v": v, **gates, "y_ct": y_ct}


def _lsh_inputs(normal, case):
  """Makes inputs of LSH attention, with buckets hashed as by the Reformer."""
  _, tokens, heads, is_causal = case
  width = heads * _HEAD_DIM
  x = normal(1, tokens, width)
  kernels = {
    name: normal(width, width) / np.float32(width**0.5)
    for name in ("qk_kernel", "v_kernel")
  }
  qk = (x @ kernels["qk_kernel"]).reshape(tokens, heads, _HEAD_DIM)
  half = tokens // _CHUNK_SIZE  # Of two buckets a chunk.
  rotated = np.einsum("thk,krn->hrtn", qk, normal(_HEAD_DIM, _NUM_HASHES, half))
  buckets = np.concatenate([rotated, -rotated], -1).argmax(-1)  # [H, R, T].
  y_ct = normal(tokens, heads, _HEAD_DIM)
  for head in range(heads):
    y_ct[~agrees(buckets[head], is_causal), head] = 0
  return {
    "buckets": buckets[None].astype(np.uint8),
    "x": x,
    **kernels,
    "y_ct": y_ct.reshape(1, tokens, width),
  }


def agrees(buckets: np.ndarray, is_causal: bool) -> np.ndarray:
  """Finds the tokens for which transformers and slim define the same.

  The first sorted chunk of a round sees the last one in transformers, and
  nothing before it in slim. A token that meets no other attends to itself.
  transformers computes that with scores of -1e5 and an error of 0.5 %.

  Args:
    buckets: [R, T]. T is a multiple of the size of a chunk.
    is_causal: Whether a query sees no later keys.

  Returns:
    [T], bool.
  """
  token = np.arange(buckets.shape[1])
  in_first, meets = (np.zeros(len(token), bool) for _ in range(2))
  for of_round in buckets:
    chunks = np.argsort(of_round, kind="stable").reshape(-1, _CHUNK_SIZE)
    in_first[chunks[0]] = True
    earliest = chunks.min(1)
    earliest[1:] = np.minimum(earliest[1:], earliest[:-1])
    for chunk, first in zip(chunks, earliest, strict=True):
      meets[chunk] |= first < chunk
  return ~in_first & (meets | (not is_causal))
