"""The Reformer's savings of memory leave its gradient as it is."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models.block import Block
from slim.models.layers import MLP, Embedding, Logits, dropout
from slim.models.mixers.lsh import LSHAttention
from slim.models.mixers.mixer import Site
from slim.models.mixers.softmax import ATTENTIONS, SoftmaxAttention
from slim.training.gradients import make_value_and_grad
from slim.types import LanguageModel
from tests.helpers import assert_gradients_close
from tests.models.equations import equations_of
from tests.models.small import (
  KEYS,
  SIZES,
  batch_of,
  create,
  gradient_of,
  params_of,
)

T = 21


def plain_attention(q, k, v, *, window, **_):
  """Causal softmax of all pairs within a window, differentiated plainly."""
  length = q.shape[1]
  seen = np.tri(length, dtype=bool) & ~np.tri(length, k=-window, dtype=bool)
  scores = jnp.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(q.shape[-1])
  p = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf), -1)
  return jnp.einsum("bhij,bjhv->bihv", p, v)


def plain_model(
  *,
  attention,
  num_layers,
  is_reversible,
  norm,
  positions,
  drop_rate,
  qk_norm=False,
  output_projection=False,
):
  """The network written out: all heads, rounds and tokens at once."""
  dtype = jnp.dtype("float64")
  of_heads = {
    "width": SIZES["width"],
    "num_heads": SIZES["num_heads"],
    "qk_norm": qk_norm,
    "rotary": positions == "rotary",
    "output_projection": output_projection,
    "dtype": dtype,
  }
  softmax, local = (
    SoftmaxAttention(
      attention=name, num_kv_heads=SIZES["num_heads"], **of_heads
    )
    for name in ("plain", "plain_local")
  )
  lsh = LSHAttention(
    bucket_size=SIZES["bucket_size"],
    num_hashes=2,
    hash_rounds="parallel",
    heads_at_once=None,
    **of_heads,
  )
  names = (attention.split(",") * num_layers)[:num_layers]
  modules = {"local": local, "lsh": lsh}
  vocab_size, width = SIZES["vocab_size"], SIZES["width"]
  embedding = Embedding(
    vocab_size, width, positions, SIZES["max_positions"], False, dtype
  )

  def apply(params, tokens, state, keys, remat):
    del state, remat
    position = jnp.arange(T)

    def fold(site):
      return jax.vmap(jax.random.fold_in, (0, None))(keys, site)

    def drop(x, site):
      return dropout(x, drop_rate, fold(site), position)

    def add(one, two, y):
      return (two, one + y) if is_reversible else (two + y, two + y)

    x = embedding.apply({"params": params["embedding"]}, tokens, position)
    one = two = drop(x, 0)
    for i, name in enumerate(names):
      mlp = MLP(SIZES["mlp_width"], dtype)
      block = Block(modules.get(name, softmax), mlp, None, norm, dtype)
      block = block.bind({"params": params[f"layer_{i}"]})
      hash_keys = fold(1 + 2 * len(names) + i) if name == "lsh" else None
      site = Site(0, None, hash_keys, False, None)
      y = block.mix(two, None, site).y
      one, two = add(one, two, drop(y, 1 + 2 * i))
      one, two = add(one, two, drop(block.feed(two), 2 + 2 * i))
    logits = Logits(vocab_size, dtype)
    x = (one + two) / 2
    return logits.apply({"params": params["logits"]}, x), None

  return LanguageModel(None, lambda _: None, apply, None, "none", True)


def plain_gradient(params, **settings):
  """The loss and gradient to find."""
  with pytest.MonkeyPatch.context() as patch:
    for name, window in (("plain", T), ("plain_local", SIZES["window"])):
      attend = functools.partial(plain_attention, window=window)
      patch.setitem(ATTENTIONS, name, attend)
    gradient = gradient_of(plain_model(**settings), method="full")
    return gradient(params, batch_of(T), KEYS)


SAVINGS = ("reversible", "mlp_chunk_size", "heads_at_once", "hash_rounds")
SLOW_SAVINGS = [
  {"attention": "softmax", "mlp_chunk_size": 5},
  {"attention": "local", "norm": "pre", "mlp_chunk_size": 8},
  {"attention": "local", "reversible": False, "mlp_chunk_size": 5},
  {
    "attention": "lsh",
    "reversible": False,
    "heads_at_once": 1,
    "positions": "rotary",
    "qk_norm": True,
  },
  {"attention": "lsh", "norm": "pre", "heads_at_once": 1},
  {
    "attention": "lsh",
    "norm": "pre",
    "hash_rounds": "parallel",
    "mlp_chunk_size": 5,
  },
]


@pytest.mark.parametrize(
  "case",
  [
    {
      "attention": "local,lsh",
      "num_layers": 2,
      "positions": "rotary",
      "heads_at_once": 1,
      "mlp_chunk_size": 5,
      "output_projection": True,
      "dropout": 0.1,
    },
    {
      "attention": "lsh",
      "reversible": False,
      "hash_rounds": "parallel",
      "norm": "pre",
      "mlp_chunk_size": 8,
      "qk_norm": True,
      "dropout": 0.1,
    },
    {"attention": "chunked_softmax", "norm": "pre", "positions": "learned"},
    *(
      pytest.param(
        {"num_layers": 2, "dropout": 0.1} | case, marks=pytest.mark.slow
      )
      for case in SLOW_SAVINGS
    ),
  ],
  ids=lambda case: "-".join(map(str, case.values())),
)
def test_every_saving_leaves_the_gradient_as_it_is(x64, case):
  """What is forgotten, and computed anew, would be something else."""
  defaults = {
    "num_layers": 1,
    "norm": "output",
    "positions": "axial",
    "reversible": True,
    "dropout": 0.0,
  }
  case = defaults | case
  plain = {name: x for name, x in case.items() if name not in SAVINGS}
  plain["drop_rate"] = plain.pop("dropout")
  model = create(**case)
  params = params_of(model)
  found = gradient_of(model, method="full")(params, batch_of(T), KEYS)
  right = plain_gradient(params, is_reversible=case["reversible"], **plain)
  assert_gradients_close(found, right, 1e-10)


def test_remat_hashes_once():
  """Fails if a token changes its bucket between two passes, by rounding."""
  model = create(attention="lsh", dtype="float32")
  full, remat = (
    [
      x.primitive.name
      for x in equations_of(
        make_value_and_grad(model, method=method),
        params_of(model),
        batch_of(T),
        KEYS,
      )
    ].count("argmax")
    for method in ("full", "remat")
  )
  assert remat == full > 0
