"""The models that `reformer_memory` compares, and the memory of a gradient.

Width 512, 8 heads, bytes, axial positions, norm "pre", the embedding's table as
the output layer, buckets of 64 tokens, one sequence, float32, no dropout; 4,096
tokens, 6 layers, an MLP of 2,048 and 8 rounds of hashing where nothing else is
said. Compiled only: nothing runs.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
from baselines import probabilities_attention
from configurations import abstract_batch

from slim.memory import MemoryReport, MemoryTimeline, memory_report
from slim.memory.timeline import analyse
from slim.models import create_model
from slim.models.mixers.softmax import ATTENTIONS
from slim.training.gradients import (
  COMPILER_OPTIONS,
  ValueAndGrad,
  make_value_and_grad,
)
from slim.types import LanguageModel

SIZES = {"length": 4096, "layers": 6, "mlp_width": 2048, "hashes": 8}
QUICK_SIZES = {"length": 512, "layers": 2, "mlp_width": 512, "hashes": 2}
_REVERSIBLE = {"reversible": True}
_CHUNKED = {"reversible": True, "mlp_chunk_size": 512}
_PUBLISHED = {"attention": "lsh", "hash_rounds": "parallel"}
_SLIM = {"method": "slim", "chunk_size": 256, "policy": "rewind"}

MODELS = {
  "Transformer": {"attention": "softmax"},
  "Transformer, probabilities only": {"attention": "probabilities"},
  "Transformer, by blocks": {"attention": "chunked_softmax"},
  "LSH Transformer, published form": _PUBLISHED,
  "LSH Transformer": {"attention": "lsh"},
  "Reversible": {"attention": "softmax"} | _REVERSIBLE,
  "Chunked reversible": {"attention": "softmax"} | _CHUNKED,
  "Chunked reversible, by blocks": {"attention": "chunked_softmax"} | _CHUNKED,
  "Reformer, published form": _PUBLISHED | _CHUNKED,
  "Reformer, all heads at once": {"attention": "lsh"} | _CHUNKED,
  "Reformer": {"attention": "lsh", "heads_at_once": 1} | _CHUNKED,
  "SLiM": _SLIM,
  "SLiM × reversible": _SLIM | _REVERSIBLE,
}
# The largest terms that Table 3 of Kitaev et al. has, in activations of one
# sequence; and what SLiM's one chunk of 256 tokens has. A query meets two
# chunks of 64 keys, which is the 128 here.
_SCORES = "8 * length**2"
_PAIRS = "8 * length * hashes * 128"
FORMULAS = {
  "Transformer": f"max(length * mlp_width, {_SCORES}) * layers",
  "Reversible": f"max(length * mlp_width, {_SCORES})",
  "Chunked reversible": f"max(length * 512, {_SCORES})",
  "LSH Transformer, published form": (
    f"max(length * mlp_width, {_PAIRS}) * layers"
  ),
  "Reformer, published form": f"max(length * 512, {_PAIRS})",
  "Reformer": f"max(length * 512, {_PAIRS})",
  "SLiM × reversible": "256 * mlp_width",
}

# The second option leaves buffers as they are, and compiles in a third.
_OPTIONS = COMPILER_OPTIONS | {"xla_backend_optimization_level": 0}


def formula(name: str, sizes: dict[str, int]) -> int:
  """Evaluates a model's row of Table 3, in numbers."""
  return eval(FORMULAS[name], {"max": max}, sizes)


def make_gradient(
  name: str, sizes: dict[str, int]
) -> tuple[LanguageModel, ValueAndGrad]:
  """Makes a model, and its gradient by the method of that row."""
  settings = dict(MODELS[name])
  method = {
    key: settings.pop(key)
    for key in ("method", "chunk_size", "policy")
    if key in settings
  }
  model = create_model(
    vocab_size=256,
    width=512,
    num_heads=8,
    num_layers=sizes["layers"],
    mlp_width=sizes["mlp_width"],
    num_hashes=sizes["hashes"],
    positions="axial",
    max_positions=sizes["length"],
    norm="pre",
    final_norm=True,
    output_projection=True,
    tied_output=True,
    frozen_key=jax.random.key(0),
    **settings,
  )
  return model, make_value_and_grad(model, **{"method": "full"} | method)


def compile_with(
  look: Callable[..., Any], name: str, sizes: dict[str, int]
) -> Any:
  """Gives the gradient of a model to a function of `slim.memory`."""
  # The model finds its attention by name: for one that slim does not have, the
  # name is there for as long as it is compiled.
  with mock.patch.dict(ATTENTIONS, probabilities=probabilities_attention):
    model, program = make_gradient(name, sizes)
    args = [
      jax.eval_shape(model.init, jax.random.key(0)),
      abstract_batch(sizes["length"]),
    ]
    if model.is_random:
      args.append(
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
      )
    return look(program, *args, compiler_options=_OPTIONS)


def measure(
  name: str, sizes: dict[str, int], with_timeline: bool
) -> tuple[MemoryReport, MemoryTimeline | None]:
  """Compiles a model's gradient: its memory, and when it is needed if asked."""
  if with_timeline:
    return compile_with(analyse, name, sizes)
  return compile_with(memory_report, name, sizes), None
