"""Arguments of gated linear attention that have broken other libraries."""

import jax
import numpy as np

# By name, the log decay [T, H, X] for normal numbers of that shape.
DECAYS = {
  "none": np.zeros_like,
  "trained": lambda x: -np.exp(x),
  "1e-6 everywhere": lambda x: np.full_like(x, -1e-6),
  "1e-12 a token": lambda x: np.full_like(x, np.log(1e-12)),
  "-20 a token": lambda x: -20 - np.abs(x),
  "-100": lambda x: np.full_like(x, -100.0),
  "-1e4 among weak ones": lambda x: np.where(_at(x, 0.3), -1e4, -0.01),
  "documents": lambda x: np.where(_at(x, 0.4), -np.inf, -0.1 * np.abs(x)),
  "documents of one token": lambda x: np.full_like(x, -np.inf),
  "a share of none": lambda x: np.where(x > 0, 0.0, -np.exp(x)),
  "equal keys": np.zeros_like,
}
NUM_CASES = len(DECAYS)


def gated_arguments(
  length, *, per_channel, has_erase, dtype="float64", heads=2, sizes=(3, 4)
):
  """Draws arguments, one case of `DECAYS` for each sequence, and cotangents.

  Returns:
    (q, k, v, log_decay, state, erase or None), (y_ct, state_ct), in NumPy.
  """
  random = np.random.default_rng(0)
  key_dim, value_dim = sizes
  shape = NUM_CASES, length, heads
  q, k = random.normal(size=(2, *shape, key_dim))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  v = random.normal(size=(*shape, value_dim))
  width = (key_dim,) if per_channel else ()
  drawn = random.normal(size=(*shape, *width))
  decay = np.stack(
    [make(x) for make, x in zip(DECAYS.values(), drawn, strict=True)]
  )
  beta = random.uniform(size=(*shape, 1))
  equal = list(DECAYS).index("equal keys")
  k[equal], beta[equal] = k[equal, :1, :1], 1
  state = random.normal(size=(NUM_CASES, heads, key_dim, value_dim))
  erase = beta * k if has_erase else None
  cts = random.normal(size=v.shape), random.normal(size=state.shape)
  return jax.tree.map(
    lambda x: x.astype(dtype),
    ((q, k, beta * v, decay, state, erase), cts),
  )


def value_and_cotangents(form, arguments, cts, **settings):
  """Computes outputs and gradients of all arguments, by their names."""

  def run(q, k, v, log_decay, state, erase):
    return form(q, k, v, log_decay, state, erase=erase, **settings)

  @jax.jit
  def all_of(arguments, cts):
    outputs, vjp = jax.vjp(run, *arguments)
    return outputs, vjp(cts)

  outputs, gradients = jax.device_get(all_of(arguments, cts))
  names = ("q", "k", "v", "log_decay", "state", "erase")
  found = dict(zip(("y", "last state"), outputs, strict=True))
  return found | {
    name: ct
    for name, ct in zip(names, gradients, strict=True)
    if ct is not None
  }


def errors(found, right):
  """Computes the largest relative error of each array over the cases.

  Each sequence, a case of its own, is compared by its own norm.
  """
  worst = {}
  for name, x in right.items():
    x, y = (
      np.asarray(a, np.float64).reshape(NUM_CASES, -1) for a in (x, found[name])
    )
    norms = np.linalg.norm(x, axis=1)
    distances = np.linalg.norm(x - y, axis=1)
    relative = np.where(distances == 0, 0, distances / np.maximum(norms, 1e-30))
    worst[name] = relative
  return worst


def _at(x, place):
  """Marks one token at this share of the length, and one soon after it."""
  tokens = np.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
  first = int(place * x.shape[0])
  return np.broadcast_to((tokens == first) | (tokens == first + 3), x.shape)
