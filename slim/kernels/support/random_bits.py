"""Random numbers that depend only on (key, counter).

The bits of `jax.random` may depend on more: for "rbg" keys on the shape of the
array and on `jax.vmap`, for "unsafe_rbg" the split keys too, and for default
keys on `jax_threefry_partitionable`. A chunk of a sequence, or a row of a
batch, would then not draw the numbers of the whole.

Here a key of any implementation is hashed into a Threefry-2x32 key, and each
number is the hash of one counter:

  word_0, word_1 = threefry(key, (0, counter)).

For keys of the default implementation, all functions return the same numbers as
`jax.random` with default settings.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def check_keys(
  name: str, keys: jax.Array | None, shape: tuple[int, ...]
) -> jax.Array:
  """Checks that an argument is an array of PRNG keys.

  Args:
    name: Name of the argument, for the message.
    keys: Keys from `jax.random.key`, or from `jax.random.PRNGKey` with their
      uint32 words along the last axis.
    shape: The expected shape; () for one key.

  Returns:
    The keys.

  Raises:
    ValueError: If it is not. The message names the argument, what was expected
      and what was found.
  """
  words = _key_data(name, keys)
  if words.shape[:-1] != shape:
    expected = f"PRNG keys of shape {shape}" if shape else "one PRNG key"
    raise ValueError(f"{name} must be {expected}, got {words.shape[:-1]}")
  return jnp.asarray(keys)


def fold_in(keys: jax.Array, counters: jax.Array | int) -> jax.Array:
  """Folds counters into keys, like `jax.random.fold_in` for arrays.

  Args:
    keys: PRNG keys of any implementation.
    counters: Integers, broadcastable with the keys. Their low 32 bits are used.

  Returns:
    PRNG keys of the implementation "threefry2x32".
  """
  words = jnp.stack(hash_words(keys, counters), -1)
  return jax.random.wrap_key_data(words, impl="threefry2x32")


def split(key: jax.Array, num: int) -> jax.Array:
  """Splits a key into [num] keys, like `jax.random.split`."""
  return fold_in(key, jnp.arange(num, dtype=jnp.uint32))


def uniform(keys: jax.Array, counters: jax.Array) -> jax.Array:
  """Draws a number from U[0, 1) for each key and counter.

  Args:
    keys: PRNG keys of any implementation.
    counters: Integers, broadcastable with the keys. `jax.random.uniform` draws
      n numbers with the counters 0 … n - 1.

  Returns:
    float32, multiples of 2⁻²³.
  """
  one, two = hash_words(keys, counters)
  return ((one ^ two) >> np.uint32(9)).astype(jnp.float32) * np.float32(2**-23)


@jax.jit(static_argnums=1)
def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws an array from N(0, 1), like `jax.random.normal`.

  Args:
    key: A PRNG key of any implementation.
    shape: Shape of the array.

  Returns:
    float32.
  """
  lowest = np.nextafter(np.float32(-1), np.float32(0))
  drawn = uniform(key, jnp.arange(math.prod(shape), dtype=jnp.uint32))
  inside = jnp.maximum(lowest, drawn * np.float32(2) + lowest)
  return (np.float32(2**0.5) * jax.lax.erf_inv(inside)).reshape(shape)


def hash_words(
  keys: jax.Array, counters: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
  """Hashes each key and counter into two words of random bits.

  Args:
    keys: PRNG keys of any implementation.
    counters: Integers, broadcastable with the keys. Their low 32 bits are used.

  Returns:
    Two uint32 arrays.
  """
  data = _key_data("keys", keys)
  words = [data[..., i] for i in range(data.shape[-1])]
  if len(words) == 1:
    words.append(jnp.zeros_like(words[0]))
  one, two, *further = words
  for word in further:  # Another implementation: hash its words into two.
    one, two = _threefry(one, two, word)
  counters = jnp.asarray(counters, jnp.uint32)
  return _threefry(*jnp.broadcast_arrays(one, two, counters))


def _key_data(name, keys):
  """Returns the words of keys, [..., W], uint32."""
  dtype = getattr(keys, "dtype", None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return jax.random.key_data(keys)
  if dtype != jnp.uint32 or not keys.ndim:
    raise ValueError(
      f"{name} must be PRNG keys, as from jax.random.key, got "
      f"{keys if dtype is None else f'{dtype}{list(jnp.shape(keys))}'}"
    )
  return jnp.asarray(keys)


@jax.jit
def _threefry(key_0, key_1, counter):
  """Computes Threefry-2x32 of the counters (0, `counter`), of one shape.

  Unrolled, so that XLA fuses it with the use of the bits. JAX's loop for CPUs
  needs the memory of four arrays and ten times the compile time.

  References:
    Salmon et al., 2011, https://doi.org/10.1145/2063384.2063405.
  """
  keys = key_0, key_1, key_0 ^ key_1 ^ np.uint32(0x1BD11BDA)
  one, two = keys[0], counter + keys[1]
  for i in range(5):
    for distance in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      one = one + two
      left = two << np.uint32(distance)
      two = one ^ (left | two >> np.uint32(32 - distance))
    one = one + keys[(i + 1) % 3]
    two = two + keys[(i + 2) % 3] + np.uint32(i + 1)
  return one, two
