"""Orders of tokens for sequences that are sharded over a mesh axis.

`jax.shard_map` gives each of P devices T / P consecutive tokens of an array.
Permute the tokens first, and each device gets those that it should work on:

  x = jax.device_put(x[:, order], NamedSharding(mesh, P(None, "sequence")))

`jnp.argsort(order)` brings outputs back into the order of the sequence.
"""

import itertools

import numpy as np

from slim.kernels.support.shapes import check_positive_int


def chunk_order(
  num_tokens: int, num_devices: int, chunk_size: int
) -> np.ndarray:
  """Splits each chunk of a sequence over the devices.

  A chunk has P·C tokens, and device p gets piece p of C tokens of every chunk.
  All devices then work on the same chunk at the same time. Use it with
  `slim.kernels.scan` and `sequence_parallel_linear_attention`.

  Args:
    num_tokens: T; a multiple of P.
    num_devices: P.
    chunk_size: C, tokens of a device in a chunk. If C does not divide T / P,
      the first chunk is the short one, as in `slim.kernels.scan`.

  Returns:
    [T], int: which token of the sequence comes where.

  Raises:
    ValueError: If an argument is no positive integer, or P does not divide T.
  """
  per_device = _per_device(num_tokens, num_devices, num_devices)
  size = check_positive_int("chunk_size", chunk_size)
  # Of the chunks, in tokens of one device.
  bounds = [0, *range((per_device - 1) % size + 1, per_device + 1, size)]
  chunks = [
    np.arange(num_devices * start, num_devices * end).reshape(num_devices, -1)
    for start, end in itertools.pairwise(bounds)
  ]
  return np.concatenate(chunks, 1).reshape(-1)


def zigzag_order(num_tokens: int, num_devices: int) -> np.ndarray:
  """Splits a sequence so that causal attention is equal work on all devices.

  The sequence is cut into 2 P stripes, and device p gets stripes p and
  2 P - 1 - p. Use it with `ring_attention`.

  Args:
    num_tokens: T; a multiple of 2 P.
    num_devices: P.

  Returns:
    [T], int: which token of the sequence comes where.

  Raises:
    ValueError: If an argument is no positive integer, or 2 P does not divide T.
  """
  per_device = _per_device(num_tokens, num_devices, 2 * num_devices)
  stripes = np.arange(num_tokens).reshape(2 * num_devices, per_device // 2)
  devices = np.arange(num_devices)
  pairs = np.stack([devices, 2 * num_devices - 1 - devices], 1)
  return stripes[pairs.reshape(-1)].reshape(-1)


def _per_device(num_tokens, num_devices, divisor):
  """Returns the tokens of a device; ValueError if they do not divide."""
  check_positive_int("num_tokens", num_tokens)
  check_positive_int("num_devices", num_devices)
  if num_tokens % divisor:
    raise ValueError(
      f"num_tokens must be a multiple of {divisor} for {num_devices} devices, "
      f"got {num_tokens}: pad the end, which no earlier token sees"
    )
  return num_tokens // num_devices
