"""Packed documents: a sequence of several is what each is alone."""

import jax
import numpy as np
import pytest

from slim.settings import SettingError
from slim.training.gradients import make_value_and_grad
from slim.types import Batch
from tests.helpers import TOLERANCES, assert_gradients_close
from tests.models import small

T, C = 7, 3  # Chunks of 1, 3 and 3 tokens.
LENGTHS = [(2, 1, 4), (4, 3)]  # Of the documents in each sequence.
FORWARD = {
  "gdn,local": {"window": 3, "conv_width": 3},
  "ssd,retention,gla,delta,kda": {"conv_width": 2},
  "gla,linear": {
    "stack_layers": True,
    "num_layers": 4,
    "feature_map": "favor",
  },
}
BACKWARD = {
  "gdn,chunked_softmax": {"positions": "rotary"},
  "linear,softmax": {"positions": "learned"},
  "local,local": {"window": 3, "window_state": "cache", "num_kv_heads": 1},
  "local,softmax": {"window": 3, "reversible": True},
}


def create(attention, packed, **settings):
  """Creates a small model with a layer of each kind."""
  num_layers = {"num_layers": attention.count(",") + 1}
  return small.create(
    attention=attention, packed=packed, **num_layers | settings
  )


def make_batches():
  """The same documents, two or three a row, and each in a row of its own."""
  tokens = small.tokens_of(2, T + 1)
  packed, alone = [], []
  for row, lengths in zip(tokens, LENGTHS, strict=True):
    positions = np.concatenate([np.arange(n) for n in lengths])
    weights = np.append(positions[1:] != 0, False).astype(np.float32)
    packed.append((row[:-1], row[1:], weights, positions.astype(np.int32)))
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
      document = np.zeros((3, T), np.float32)
      columns = slice(end - length, end)
      for i in range(3):
        document[i, :length] = packed[-1][i][columns]
      alone.append(document)
  inputs, targets, weights = np.stack(alone, 1)
  inputs, targets = inputs.astype(np.int32), targets.astype(np.int32)
  packed = [np.stack(x) for x in zip(*packed, strict=True)]
  return Batch(*packed), Batch(inputs, targets, weights)


def marked(models, fast=None):
  """Marks all models but one as slow."""
  return [
    pytest.param(name, marks=[] if name == fast else [pytest.mark.slow])
    for name in models
  ]


@pytest.mark.parametrize("attention", marked(FORWARD, fast="gdn,local"))
def test_packed_documents_are_documents_alone(x64, attention):
  """Fails if a token sees another document."""
  model = create(attention, packed=True, **FORWARD[attention])
  params, (packed, alone) = small.params_of(model), make_batches()
  # Of an unpacked model, what follows a document is not seen either.
  right, _ = jax.jit(create(attention, False, **FORWARD[attention]).apply)(
    params, alone.inputs, model.init_state(len(alone.inputs))
  )
  found, _ = jax.jit(model.apply)(
    params, packed.inputs, model.init_state(2), positions=packed.positions
  )
  lengths = sum(LENGTHS, ())
  right = np.concatenate([x[:n] for x, n in zip(right, lengths, strict=True)])
  np.testing.assert_allclose(
    np.concatenate(found), right, rtol=1e-11, atol=1e-11
  )


@pytest.mark.slow
@pytest.mark.parametrize("attention", BACKWARD)
def test_gradients_are_the_sum_of_those_of_documents(x64, attention):
  """Fails if a chunk is undone, or differentiated, across a document."""
  settings = BACKWARD[attention]
  model = create(attention, packed=True, **settings)
  params, (packed, alone) = small.params_of(model), make_batches()
  # Rows that begin within a document, as random ones do.
  positions = packed.positions.copy()
  for row, (length, *_) in enumerate(LENGTHS):
    positions[row, :length] += 100
  packed = packed._replace(positions=positions)
  dense = make_value_and_grad(
    create(attention, False, **settings), method="full"
  )
  methods = [{"method": "slim", "chunk_size": C}, {"method": "full"}]
  if not settings.get("reversible"):
    methods.append({"method": "remat"})
  calls = [make_value_and_grad(model, **method) for method in methods]
  right, *found = jax.jit(
    lambda p: [dense(p, alone), *(call(p, packed) for call in calls)]
  )(params)
  for gradient in found:
    assert_gradients_close(gradient, right, TOLERANCES["float64"])


def test_a_sequence_begins_a_document(x64):
  """Fails if the first token is taken for one within a document."""
  packed, unpacked = (create("linear", x) for x in (True, False))
  params, (batch, _) = small.params_of(packed), make_batches()
  late = np.broadcast_to(np.arange(T, dtype=np.int32) + 100, (2, T))

  @jax.jit
  def logits(params):
    calls = (packed, {"positions": late}), (packed, {}), (unpacked, {})
    return [
      model.apply(params, batch.inputs, model.init_state(2), **positions)[0]
      for model, positions in calls
    ]

  found = logits(params)
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_allclose(found[1], found[2], rtol=1e-12, atol=1e-12)


def test_the_start_of_a_document_is_not_undone():
  """Fails if sums are given as they are after a document that began since."""
  assert create("linear,softmax", packed=True).kept.layers == (True, False)
  assert create("linear,softmax", packed=False).kept.layers == (False, False)


def test_documents_that_are_not_kept_apart_are_refused():
  """Fails if positions are ignored, or LSH attention is packed."""
  with pytest.raises(SettingError, match="attention must not have 'lsh' for"):
    create("linear,lsh", packed=True)
  with pytest.raises(SettingError, match="attention cannot keep packed doc"):
    create("linear", packed=True, sequence_axis="sequence")
  model, (batch, _) = create("linear", packed=False), make_batches()
  with pytest.raises(ValueError, match="positions must be None for a model"):
    model.apply(None, batch.inputs, None, positions=batch.positions)
