"""The models that `reformer_memory` compares, and the memory of a gradient.

Width 512, 8 heads, bytes, axial positions, norm "pre", tied output layer,
buckets of 64 tokens, one sequence, float32, no dropout. By default 4,096
tokens, 6 layers, an MLP of width 2,048 and 8 rounds of hashing. Programs are
compiled and not run.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from baselines import probabilities_attention
from configurations import abstract_batch
from measurements import memory_columns

from slim.memory import MemoryTimeline, memory_report
from slim.memory.rendering import describe_peak
from slim.memory.timeline import analyze
from slim.models import create_model
from slim.models.mixers import MIXERS
from slim.models.mixers.mixer import MixerKind
from slim.models.mixers.softmax import (
  ATTENTIONS,
  SoftmaxSettings,
  create_softmax,
)
from slim.training.gradients import (
  COMPILER_OPTIONS,
  ValueAndGrad,
  make_value_and_grad,
)
from slim.types import LanguageModel

SIZES = {"length": 4096, "layers": 6, "mlp_width": 2048, "hashes": 8}
QUICK_SIZES = {"length": 512, "layers": 2, "mlp_width": 512, "hashes": 2}
_POINTS = 150  # Of a stored timeline.
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
# What a reversible model is compared with in time, and not in the figures.
OTHERS = {"LSH Transformer, by head": {"attention": "lsh", "heads_at_once": 1}}
# A mixer that slim does not have: softmax attention with this function.
ATTENTIONS["probabilities"] = probabilities_attention
MIXERS["probabilities"] = MixerKind(
  SoftmaxSettings, functools.partial(create_softmax, "probabilities")
)


class Formula(NamedTuple):
  """How activations grow: the largest of some products, times a factor.

  Attributes:
    products: Each a tuple of numbers and of names in `SIZES`.
    factor: A tuple likewise.
  """

  products: tuple[tuple[int | str, ...], ...]
  factor: tuple[int | str, ...] = ()

  def __call__(self, sizes: dict[str, int]) -> int:
    """Returns the number of activations for a model's sizes."""

    def multiply(factors):
      return math.prod(sizes[x] if isinstance(x, str) else x for x in factors)

    return max(map(multiply, self.products)) * multiply(self.factor)

  def __str__(self) -> str:
    """Returns the formula as in "max(length * 512, 256 * mlp_width)"."""

    def join(factors):
      return " * ".join(map(str, factors))

    largest = ", ".join(map(join, self.products))
    if len(self.products) > 1:
      largest = f"max({largest})"
    return " * ".join([largest, *map(str, self.factor)])

  def depends_on(self, size: str) -> bool:
    """Returns whether a size is in the formula."""
    return any(size in factors for factors in (*self.products, self.factor))


# Table 3 of Kitaev et al., in activations of one sequence, and SLiM's one chunk
# of 256 tokens. A query meets two chunks of 64 keys, hence 128.
_SCORES = (8, "length", "length")
_PAIRS = (8, "length", "hashes", 128)
_MLP, _CHUNKED_MLP = ("length", "mlp_width"), ("length", 512)
FORMULAS = {
  "Transformer": Formula((_MLP, _SCORES), ("layers",)),
  "Reversible": Formula((_MLP, _SCORES)),
  "Chunked reversible": Formula((_CHUNKED_MLP, _SCORES)),
  "LSH Transformer, published form": Formula((_MLP, _PAIRS), ("layers",)),
  "Reformer, published form": Formula((_CHUNKED_MLP, _PAIRS)),
  "Reformer": Formula((_CHUNKED_MLP, _PAIRS)),
  "SLiM × reversible": Formula(((256, "mlp_width"),)),
}

# The second option compiles in a third of the time and changes no buffers.
_OPTIONS = COMPILER_OPTIONS | {"xla_backend_optimization_level": 0}


def make_gradient(
  name: str, sizes: dict[str, int]
) -> tuple[LanguageModel, ValueAndGrad]:
  """Creates a model of `MODELS` or `OTHERS`, and its gradient."""
  settings = dict((MODELS | OTHERS)[name])
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
  tool: Callable[..., Any], name: str, sizes: dict[str, int]
) -> Any:
  """Applies a function of `slim.memory` to the gradient of a model."""
  model, program = make_gradient(name, sizes)
  args = [
    jax.eval_shape(model.init, jax.random.key(0)),
    abstract_batch(sizes["length"]),
  ]
  if model.is_random:
    args.append(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)))
  return tool(program, *args, compiler_options=_OPTIONS)


def measure(case: tuple[str, int, int, int, int]) -> list[dict[str, Any]]:
  """Compiles a model's gradient.

  Args:
    case: The name of the model and its sizes, in the order of `SIZES`.

  Returns:
    Its memory, as the columns of a table. For the sizes of `SIZES`, also its
    timeline.
  """
  name, *values = case
  sizes = dict(zip(SIZES, values, strict=True))
  if sizes != SIZES:
    return [
      {"memory": memory_columns(compile_with(memory_report, name, sizes))}
    ]
  report, timeline = compile_with(analyze, name, sizes)
  return [
    {"memory": memory_columns(report), "timeline": shorten_timeline(timeline)}
  ]


def shorten_timeline(timeline: MemoryTimeline) -> dict[str, Any]:
  """Returns what a figure needs of a timeline, to be stored as JSON."""
  parts = np.array_split(timeline.live, min(_POINTS, len(timeline.live)))
  return {
    # The largest value of each part, so that no peak is lost.
    "live_MiB": [float(f"{part.max() / 2**20:.4g}") for part in parts],
    "peak_MiB": timeline.peak_bytes / 2**20,
    "largest_at_peak": describe_peak(timeline),
  }
