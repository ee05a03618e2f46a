"""Arrays that slim and other libraries get."""

import numpy as np

_HEAD_DIM = 64
_CHUNK_SIZE = 64  # Of LSH attention.
_NUM_HASHES = 2


def make_inputs(
  operation: str, tokens: int, heads: int, is_causal: bool
) -> dict[str, np.ndarray]:
  """Makes the arrays of an operation.

  Args:
    operation: "softmax", "linear" or "LSH".
    tokens: T.
    heads: H.
    is_causal: Whether a query sees no later keys.

  Returns:
    The arrays by name, in the order of the functions in `experiments/peers`.
    The last is `y_ct`, the cotangent of the result. Where it is zero, libraries
    may compute something else.
  """
  random = np.random.default_rng(0)

  def normal(*shape):
    return random.normal(size=shape).astype(np.float32)

  if operation == "LSH":
    return _lsh_inputs(normal, tokens, heads, is_causal)
  shape = 1, tokens, heads, _HEAD_DIM
  arrays = {name: normal(*shape) for name in ("q", "k", "v", "y_ct")}
  if operation == "linear":
    projection = normal(_HEAD_DIM, _HEAD_DIM)
    return {"projection": projection} | arrays
  return arrays


def _lsh_inputs(normal, tokens, heads, is_causal):
  """Makes inputs of LSH attention, with buckets hashed as by the Reformer."""
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
