"""Memory on a CPU, a TPU and a GPU, by XLA's compilers; nothing is run.

Temporary memory of gradients of a Performer of three layers of width 1024, of
attention kernels, and of reversible layers by depth; and the overhead of Rabe &
Staats' Tables 2 and 3 on a TPU, in bfloat16. `loops` counts those whose length
XLA does not know, which make the host of a GPU wait. Batches have one sequence.
An interrupted run is continued.

  python experiments/targets.py [--quick] [--targets=cpu] [--parts=reversible]
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from arguments import define_names, define_quick, result_name
from configurations import abstract_batch, load_config, make_model
from record import measure_in_stretches, print_table, save

from slim import command_line
from slim.kernels import (
  chunked_softmax_attention,
  lsh_attention,
  lsh_buckets,
)
from slim.targets import DoesNotFitError, Target
from slim.targets.topologies import start_no_accelerator
from slim.training import build, shapes
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad

_NAMES = ("cpu", "tpu:v5e", "cuda:h100")
_TARGETS = define_names("targets", _NAMES, _NAMES, "What to compile for.")
_ALL_PARTS = ("performer", "attention", "reversible", "rabe_staats")
_PARTS = define_names(
  "parts",
  _ALL_PARTS,
  _ALL_PARTS,
  "What to compile.",
)
_QUICK = define_quick("Short sequences, on a CPU only: a minute.")

_GRADIENTS: dict[str, dict[str, Any]] = {
  "full": {"method": "full"},
  "remat": {"method": "remat"},
  **{
    f"{policy} {chunk_size}": {
      "method": "slim",
      "policy": policy,
      "chunk_size": chunk_size,
    }
    for policy, chunk_size in (
      ("store", 512),
      ("sqrt", 512),
      ("rewind", 512),
      ("rewind", 64),
    )
  },
}


class Case(NamedTuple):
  """What is compiled."""

  part: str
  what: str
  tokens: int
  layers: int
  target: str


def list_cases(quick: bool, targets: list[str]) -> Iterator[Case]:
  """Lists what is compiled, the targets side by side."""
  lengths = (1024, 2048) if quick else (4096, 65_536, 1_048_576)
  for tokens in lengths:
    for what in _GRADIENTS:
      for target in targets:
        yield Case("performer", what, tokens, 3, target)
  for tokens in lengths if quick else (8192, 65_536):
    for what in (
      "softmax forward",
      "softmax",
      "LSH",
      "LSH by head",
      "LSH in parallel",
    ):
      for target in targets:
        yield Case("attention", what, tokens, 1, target)
  for what in ("Transformer", "Performer, rewind 512"):
    for layers in (1, 2) if quick else (3, 12):
      for target in targets:
        yield Case("reversible", what, lengths[0], layers, target)
  for what in ("forward", "gradient"):
    for tokens in lengths if quick else [2**i for i in range(8, 21, 2)]:
      for target in targets:
        if quick or target == "tpu:v5e":
          for name in ("jax.nn", "slim"):
            yield Case("rabe_staats", f"{what}, {name}", tokens, 1, target)


def main() -> None:
  """Compiles, prints and saves."""
  quick = _QUICK.value
  targets = ["cpu"] if quick else _TARGETS.value
  for target in targets:
    Target(target).devices(1)  # Raises if its compiler is missing.
  cases = [x for x in list_cases(quick, targets) if x.part in _PARTS.value]
  name = result_name("targets", _TARGETS, _PARTS)
  rows = measure_in_stretches(name, cases, measure, quick=quick)
  print_table(rows)
  save(name, rows, quick=quick)


def measure(case: Case) -> list[dict[str, Any]]:
  """Compiles one program."""
  make = {
    "performer": _performer,
    "attention": _attention,
    "reversible": _reversible,
    "rabe_staats": _rabe_and_staats,
  }
  fn, *args = make[case.part](case)
  target = Target(case.target)
  loops, does_not_fit = None, False
  with jax.default_matmul_precision("highest"):
    try:
      compiled = target.compile(fn, *args, options=COMPILER_OPTIONS)
    except DoesNotFitError as error:
      num_bytes, does_not_fit = error.temporary_bytes, True
    else:
      num_bytes = target.temporary_bytes(compiled)
      text = compiled.as_text() or ""
      if target.platform == "gpu":
        loops = text.count(" while(") - text.count("known_trip_count")
  return [
    case._asdict()
    | {
      "temporary_MiB": num_bytes / 2**20,
      "refused": does_not_fit,
      "loops": loops,
    }
  ]


def _performer(case):
  """The gradient of a Performer by one of the methods."""
  model = make_model("III", _QUICK.value)
  params = jax.eval_shape(model.init, jax.random.key(0))
  value_and_grad = make_value_and_grad(model, **_GRADIENTS[case.what])
  return value_and_grad, params, abstract_batch(case.tokens)


def _attention(case):
  """An attention with 8 heads of 64, causal, or its gradient."""
  shape = (1, case.tokens, 8, 64)
  q = jax.ShapeDtypeStruct(shape, jnp.float32)
  if case.what.startswith("softmax"):
    attend = functools.partial(chunked_softmax_attention, is_causal=True)
    if case.what == "softmax forward":
      return attend, q, q, q
    return _gradient(attend, 3), q, q, q

  def attend_by_hashes(qk, v):
    buckets = lsh_buckets(
      qk, jax.random.key(0), num_buckets=case.tokens // 64, num_hashes=4
    )
    return lsh_attention(
      qk,
      v,
      buckets,
      chunk_size=64,
      is_causal=True,
      rounds="parallel" if "parallel" in case.what else "sequential",
      heads_at_once=1 if "by head" in case.what else None,
    )

  return _gradient(attend_by_hashes, 2), q, q


def _reversible(case):
  """The gradient of reversible layers as training computes it."""
  is_slim = case.what.startswith("Performer")
  config = load_config("enwik8_slim" if is_slim else "enwik8_transformer")
  config.model.reversible = True
  config.model.num_layers = case.layers
  config.train.batch_size = 1
  config.data.sequence_length = case.tokens
  if is_slim:
    config.gradient.chunk_size = 512
  else:
    config.model.mlp_chunk_size = 512
  if _QUICK.value:
    config.model.width, config.model.num_heads = 64, 1
  experiment = build.create_experiment(config)
  params = jax.eval_shape(lambda: build.init(experiment)).params
  [gradient_step] = experiment.gradient_steps.values()
  step = jax.ShapeDtypeStruct((), jnp.int32)
  return gradient_step, params, shapes.abstract_batch(config), step


def _rabe_and_staats(case):
  """One head of width 64, with outputs in float32."""
  x = jax.ShapeDtypeStruct((1, case.tokens, 1, 64), jnp.bfloat16)

  def attend(q, k, v):
    if case.what.endswith("slim"):
      return chunked_softmax_attention(q, k, v).astype(jnp.float32)
    y = jax.nn.dot_product_attention(q, k, v, implementation="xla")
    return y.astype(jnp.float32)

  is_forward = case.what.startswith("forward")
  return attend if is_forward else _gradient(attend, 3), x, x, x


def _gradient(attend, count):
  """The gradient of the sum of the outputs."""
  return jax.grad(lambda *args: attend(*args).sum(), tuple(range(count)))


if __name__ == "__main__":
  command_line.run(main, choose_device=start_no_accelerator)
