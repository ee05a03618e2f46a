"""Planted faults: one line of slim is changed, and a test has to fail.

  python tests/mutations.py                  all of them, two at a time
  python tests/mutations.py lsh rewind       those with such words in them

Each line of `MUTATIONS` names a file of slim/, what stands there, what is put
in its place, and the tests that are to notice. Each runs in a copy of the
repository, so that the working tree stays as it is. Before, the tests run once
without a fault. The exit code is 1 if a fault survives, and 2 if a line no
longer fits the code or the tests fail without a fault.
"""

import argparse
import concurrent.futures
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Mutation(NamedTuple):
  """A fault that is planted."""

  file: str  # Below slim/.
  old: str  # Stands there exactly once.
  new: str
  tests: str  # Files or folders below tests/, with spaces between.


K = "kernels/"
SOFTMAX = (
  "kernels/softmax/test_definition.py kernels/softmax/test_blocks.py "
  "kernels/softmax/test_transformations.py"
)
LSH = "kernels/lsh"
LINEAR = (
  "kernels/linear/test_attention.py kernels/linear/test_precision.py "
  "kernels/linear/test_arguments.py"
)
FEATURES = (
  "kernels/linear/test_random_features.py kernels/linear/test_projection.py"
)
PREFIX_SUMS = (
  "kernels/linear/test_prefix_sums.py kernels/linear/test_rewinding.py"
)
SCAN = "kernels/chunk_scan"
MODELS = "models training/test_gradients.py"

MUTATIONS = [
  # Kernels.
  Mutation(
    K + "linear/feature_maps.py",
    "return jax.nn.relu(x) + 1e-3",
    "return jax.nn.relu(x)",
    "kernels/linear/test_feature_maps.py",
  ),
  Mutation(
    K + "linear/feature_maps.py",
    "jnp.where(x > 0, x + 1,",
    "jnp.where(x > 0, x,",
    "kernels/linear/test_feature_maps.py",
  ),
  Mutation(
    K + "linear/random_features.py",
    "exponent -= jnp.square(scaled).sum(-1, keepdims=True) / 2",
    "exponent -= jnp.square(scaled).sum(-1, keepdims=True)",
    FEATURES,
  ),
  Mutation(
    K + "linear/random_features.py",
    "return lengths * directions",
    "return directions",
    FEATURES,
  ),
  Mutation(
    K + "linear/prefix_sums.py",
    "lambda e, s, a, b: e + _rounding_error(s, a, b)",
    "lambda e, s, a, b: e",
    PREFIX_SUMS,
  ),
  Mutation(
    K + "linear/prefix_sums.py",
    "lambda x: -jax.lax.stop_gradient(x), update",
    "lambda x: -x, update",
    PREFIX_SUMS,
  ),
  Mutation(
    K + "linear/attention.py",
    "scale = jax.lax.stop_gradient(den)",
    "scale = jnp.ones_like(den)",
    LINEAR,
  ),
  Mutation(
    K + "linear/attention.py",
    'den += einsum_f32("bshm,bhm->bsh", q, start.k)',
    "den += 0",
    LINEAR,
  ),
  Mutation(
    K + "linear/attention.py",
    'num += einsum_f32("nbhsm,nbhmv->nbhsv", qb, before.kv)',
    "num += 0",
    LINEAR,
  ),
  Mutation(
    K + "linear/attention.py",
    'num = einsum_f32("bhm,bhmv->bhv", q, sums.kv)',
    'num = 2 * einsum_f32("bhm,bhmv->bhv", q, sums.kv)',
    LINEAR,
  ),
  Mutation(
    K + "support/online_softmax.py",
    "shrink = jnp.exp(self.top - _zero_if_neg_inf(top)[None])",
    "shrink = jnp.exp(self.top)",
    SOFTMAX,
  ),
  Mutation(
    K + "support/online_softmax.py",
    "shrink = jnp.exp(self.top - _zero_if_neg_inf(top))\n",
    "shrink = jnp.ones_like(top)\n",
    SOFTMAX,
  ),
  Mutation(
    K + "softmax/_from_lse.py",
    "* y.astype(lse.dtype), -1) - lse_ct",
    "* y.astype(lse.dtype), -1) - 0 * lse_ct",
    SOFTMAX,
  ),
  Mutation(
    K + "softmax/_from_lse.py",
    "counted = rows.counted_here(i)",
    "counted = None",
    SOFTMAX,
  ),
  Mutation(
    K + "support/online_softmax.py",
    "(shrink * self.numerator).sum(0)",
    "self.numerator.sum(0)",
    SOFTMAX,
  ),
  Mutation(
    K + "softmax/_grid.py",
    "return self.tokens(i) >= i * self.size",
    "return self.tokens(i) > i * self.size",
    SOFTMAX,
  ),
  Mutation(
    K + "softmax/_window.py",
    "seen &= distance <= self.high",
    "seen &= distance < self.high",
    SOFTMAX,
  ),
  Mutation(
    K + "softmax/flax_drop_in.py",
    "is_causal=is_causal,",
    "is_causal=False,",
    "kernels/softmax/test_flax_drop_in.py",
  ),
  Mutation(
    K + "lsh/attention.py",
    "jnp.where(lse[..., None] == -jnp.inf, v, y.astype(v.dtype))",
    "y.astype(v.dtype)",
    LSH,
  ),
  Mutation(
    K + "lsh/buckets.py",
    "return jnp.where(is_top, top, bottom + rotation.shape[-1])",
    "return jnp.where(is_top, top, bottom)",
    LSH,
  ),
  Mutation(
    K + "lsh/_rounds.py",
    "seen = (key != query) & (key < length) & (query < length)",
    "seen = (key < length) & (query < length)",
    LSH,
  ),
  Mutation(
    K + "lsh/_rounds.py",
    "((key == query) | (key == query - 1))",
    "(key == query)",
    LSH,
  ),
  Mutation(
    K + "lsh/_sequential.py",
    "jnp.where(alone, y_ct, 0).astype(v_ct.dtype)",
    "jnp.zeros_like(v_ct)",
    LSH,
  ),
  Mutation(
    K + "lsh/_rounds.py",
    "smallest_unsigned(num_rounds)",
    "jnp.uint8",
    LSH,
  ),
  Mutation(
    K + "lsh/_rounds.py",
    "scale.astype(qk.dtype).astype(scale.dtype)",
    "jax.lax.stop_gradient(scale)",
    LSH,
  ),
  Mutation(
    K + "lsh/buckets.py",
    "math.prod(factors) - num_buckets",
    "0",
    LSH,
  ),
  Mutation(
    K + "lsh/buckets.py",
    "if 3 * low**2 >= num_buckets",
    "if num_buckets % (2 * low) == 0 or low == 2",
    LSH,
  ),
  Mutation(
    K + "support/random_bits.py",
    "one, two = _threefry(one, two, word)",
    "pass",
    "kernels/support/test_random_bits.py",
  ),
  Mutation(
    K + "support/random_bits.py",
    "words = jnp.stack(hash_words(keys, counters), -1)\n"
    '  return jax.random.wrap_key_data(words, impl="threefry2x32")',
    "return jax.vmap(jax.random.fold_in, (None, 0))(keys, counters)",
    "kernels/support/test_random_bits.py",
  ),
  Mutation(
    K + "reversible_layers.py",
    "one_ct, two_ct = two_ct, one_ct + x_ct",
    "one_ct, two_ct = two_ct, one_ct",
    "kernels/reversible",
  ),
  Mutation(
    K + "chunk_scan/position_wise.py",
    "lambda x: x.sum(), sums",
    "lambda x: x.mean(), sums",
    "kernels/chunk_scan/test_position_wise.py",
  ),
  Mutation(
    K + "support/mesh_axes.py",
    "missing = tuple(axes - _varying(x))",
    "missing = ()",
    SCAN,
  ),
  Mutation(
    K + "support/cotangents.py",
    "    raise ValueError(message)",
    "    pass",
    SCAN,
  ),
  Mutation(
    K + "support/cotangents.py",
    "jnp.inexact",
    "jnp.floating",
    "kernels/test_leaves.py",
  ),
  Mutation(
    "certify/gradients.py",
    "(weights.conj() * x).real.sum()",
    "(weights.real * x.real).sum()",
    "certify",
  ),
  # Policies.
  Mutation(
    K + "chunk_scan/_storing.py",
    "jax.lax.scan(jax.checkpoint(step, prevent_cse=False), state, chunks)",
    "jax.lax.scan(step, state, chunks)",
    f"{SCAN} training/test_gradients.py",
  ),
  Mutation(
    K + "chunk_scan/_storing.py",
    "return min(range(1, 2 * math.isqrt(num_chunks) + 1), key=cost)",
    "return num_chunks",
    f"{SCAN} training/test_gradients.py",
  ),
  Mutation(
    K + "chunk_scan/_rewinding.py",
    "(before, state_ct, totals), chunk_ct",
    "(after, state_ct, totals), chunk_ct",
    SCAN,
  ),
  Mutation(
    K + "chunk_scan/_rewinding.py",
    "totals = jax.tree.map(_add, totals, params_ct)",
    "totals = totals",
    SCAN,
  ),
  Mutation(
    K + "chunk_scan/_walks.py",
    "_set(outs, first + j, out)",
    "_set(outs, j, out)",
    SCAN,
  ),
  Mutation(
    K + "chunk_scan/_summing.py",
    "totals = [zeros_like(x, at_least_float32(x.dtype)) for x in leaves]",
    "totals = [zeros_like(x) for x in leaves]",
    SCAN,
  ),
  Mutation(
    K + "chunk_scan/_accumulation.py",
    "    return False  # The total is wider.",
    "    pass",
    SCAN,
  ),
  Mutation(
    K + "chunk_scan/chunks.py",
    "if self.first_size < self.size:",
    "if True:",
    SCAN,
  ),
  Mutation(
    K + "chunk_scan/chunks.py",
    "return self._cut(xs, self.first_size + i * self.size, self.size)",
    "return self._cut(xs, i * self.size, self.size)",
    SCAN,
  ),
  # Models.
  Mutation(
    "models/language_model.py",
    "position = state_after.position - tokens.shape[1]",
    "position = state_after.position",
    MODELS,
  ),
  Mutation(
    "models/mixers/linear.py",
    "y = (y.astype(offset.dtype) + offset[:, None])",
    "y = (y)",
    MODELS,
  ),
  Mutation(
    "models/mixers/linear.py",
    "max(64, math.isqrt(k.shape[-1] * v.shape[-1]))",
    "k.shape[1]",
    MODELS,
  ),
  Mutation(
    "models/block.py",
    '"output": [self.mlp, self.mlp_norm]',
    '"output": [self.mlp]',
    MODELS,
  ),
  Mutation(
    "models/layers.py",
    "x / (1 - rate)",
    "x",
    MODELS,
  ),
  Mutation(
    "models/layers.py",
    "(cdf + z * density)",
    "cdf",
    MODELS,
  ),
  Mutation(
    "models/layers.py",
    "positions % columns",
    "positions // columns",
    MODELS,
  ),
  Mutation(
    "models/norms.py",
    " - zw * along",
    "",
    MODELS,
  ),
  Mutation(
    "models/positions.py",
    "two * cos + one * sin",
    "two * cos - one * sin",
    MODELS,
  ),
  Mutation(
    "models/mixers/softmax.py",
    "(self.window - 1, 0)",
    "(self.window, 0)",
    MODELS,
  ),
  Mutation(
    "models/mixers/softmax.py",
    "query_offset=position",
    "query_offset=0",
    MODELS,
  ),
  Mutation(
    "models/mixers/lsh.py",
    "is_causal=True",
    "is_causal=False",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "((one + two) / 2)",
    "(one + two)",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "run = jax.checkpoint(run, prevent_cse=not self.is_stacked)",
    "pass",
    MODELS,
  ),
  Mutation(
    "models/network.py",
    "fold_in(call.keys, 1 + 2 * self.num_layers + layer)",
    "fold_in(call.keys, layer)",
    MODELS,
  ),
  # Losses, gradients, steps.
  Mutation(
    "training/losses.py",
    "jax.lax.stop_gradient(weights)",
    "weights",
    "training/test_losses.py",
  ),
  Mutation(
    "training/losses.py",
    "hidden = jnp.where(counts[..., None], logits, 0)",
    "hidden = logits",
    "training/test_losses.py",
  ),
  Mutation(
    "training/losses.py",
    "index = jnp.where(targets < 0, logits.shape[-1], targets)",
    "index = targets",
    "training/test_losses.py",
  ),
  Mutation(
    "training/gradients.py",
    'compensated=policy == "rewind"',
    "compensated=False",
    MODELS,
  ),
  Mutation(
    "training/gradients.py",
    'remat=method == "remat"',
    "remat=False",
    MODELS,
  ),
  Mutation(
    "training/steps.py",
    "return jax.tree.map(jnp.add, total, value), None",
    "return value, None",
    "training/test_steps.py",
  ),
  Mutation(
    "training/steps.py",
    "mean = jax.tree.map(lambda x: x / weight, gradients)",
    "mean = gradients",
    "training/test_steps.py",
  ),
  Mutation(
    "training/optimizers.py",
    "(step + 1) / max(settings.warmup_steps, 1)",
    "step / max(settings.warmup_steps, 1)",
    "training/test_optimizers.py",
  ),
  Mutation(
    "training/optimizers.py",
    "transformations.insert(0, clip)",
    "transformations.append(clip)",
    "training/test_optimizers.py",
  ),
  # Runs.
  Mutation(
    "training/build.py",
    "methods[0] if step < config.train.num_steps // 2",
    "methods[0] if step <= config.train.num_steps // 2",
    "training/test_build.py train",
  ),
  Mutation(
    "runs/checkpoints.py",
    "steps = sorted(manager.all_steps(), reverse=True)",
    "steps = sorted(manager.all_steps())",
    "runs/test_checkpoints.py train",
  ),
  Mutation(
    "runs/weights.py",
    'must_agree.append("seed")',
    "pass",
    "runs/test_weights.py",
  ),
  Mutation(
    "runs/workdir.py",
    "fcntl.LOCK_EX | fcntl.LOCK_NB",
    "fcntl.LOCK_SH | fcntl.LOCK_NB",
    "runs/test_workdir.py train",
  ),
  Mutation(
    "training/flops.py",
    'total += params["length"] * sum(inner)',
    "total += sum(inner)",
    "training/test_flops.py",
  ),
  Mutation(
    "runs/progress.py",
    "      self.report_sums = Sums(0.0, 0.0, 0.0)",
    "      pass",
    "runs/test_progress.py train",
  ),
  Mutation(
    "settings.py",
    "elif self.minimum is None and not 0 < value < math.inf:",
    "elif self.minimum is None and not 0 < value:",
    "config/test_config.py test_settings.py",
  ),
  Mutation(
    "config/presets.py",
    "value is not None and value > largest",
    "value is not None",
    "config/test_presets.py",
  ),
  Mutation(
    "config/presets.py",
    "if model.mlp_width > 4 * model.width:",
    "if True:",
    "config/test_presets.py",
  ),
  Mutation(
    "config/presets.py",
    "  elif name:",
    "  elif not name:",
    "config/test_presets.py",
  ),
  # Data.
  Mutation(
    "data/copying.py",
    "weights[:, half:-1] = 1",
    "weights[:, half:] = 1",
    "data",
  ),
  Mutation(
    "data/text.py",
    "(self._data.size - 1) // length",
    "self._data.size // length",
    "data",
  ),
  Mutation(
    "data/reading.py",
    "if (data.size, digest) != (file.size, file.sha256):",
    "if data.size != file.size:",
    "data",
  ),
  # Commands.
  Mutation(
    "train.py",
    'if metadata["data_fingerprint"] != train_data.fingerprint:',
    "if False:",
    "train",
  ),
  Mutation(
    "train.py",
    "last = done == train.num_steps",
    "last = False",
    "train",
  ),
  Mutation(
    "training/evaluation.py",
    "if not carry_state:",
    "if carry_state:",
    "training/test_evaluation.py test_evaluate.py",
  ),
  Mutation(
    "export.py",
    "save_weights(output, state.params, config, int(state.step))",
    "save_weights(output, state.params, config, 0)",
    "test_export.py",
  ),
  Mutation(
    "command_line.py",
    "if rest and not known_only:",
    "if False:",
    "test_command_line.py",
  ),
  Mutation(
    "certify/checks.py",
    "max(0.0, slope),",
    "0.0,",
    "certify",
  ),
  Mutation(
    "certify/certify_step.py",
    "return distance(before, after) > 0",
    "return False",
    "certify",
  ),
  Mutation(
    "certify/from_config.py",
    "Certificate((*certificate.checks, *training))",
    "certificate",
    "certify/test_from_config.py",
  ),
  Mutation(
    "plan/time_estimate.py",
    "return work / 3 + traffic",
    "return work / 3",
    "plan",
  ),
  Mutation(
    "plan/memory_estimate.py",
    'gradient = sum(weights) if choice.policy == "sqrt" else 0',
    "gradient = 0",
    "plan",
  ),
  Mutation(
    "plan/search.py",
    "    if total <= budget:\n      break",
    "    if total <= 2 * budget:\n      break",
    "plan",
  ),
  Mutation(
    "memory/timeline.py",
    "buffers.sort(reverse=True)",
    "buffers.sort()",
    "memory",
  ),
  Mutation(
    "memory/live_ranges.py",
    "total += max(0, stop - max(value.address, end))",
    "total += value.size",
    "memory",
  ),
]


def main() -> int:
  """Plants the chosen faults and prints what became of them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("words", nargs="*", help="choose mutations by these")
  parser.add_argument("--root", type=pathlib.Path, default=ROOT)
  parser.add_argument("--jobs", type=int, default=2)
  arguments = parser.parse_args()
  chosen = [
    mutation
    for mutation in MUTATIONS
    if not arguments.words
    or any(word in " ".join(mutation[:3]) for word in arguments.words)
  ]
  stale = [x for x in chosen if _count(arguments.root, x) != 1]
  for mutation in stale:
    print(f"stale: {mutation.file}: {mutation.old!r}")
  if stale:
    return 2
  with tempfile.TemporaryDirectory() as folder:
    copies = queue.SimpleQueue()
    for i in range(arguments.jobs):
      copies.put(_copy(arguments.root, pathlib.Path(folder, str(i))))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
      return _run(pool, copies, chosen)


def _run(pool, copies, mutations):
  """Runs the tests without faults, then with each; returns the exit code."""
  tests = sorted({mutation.tests for mutation in mutations})
  without = pool.map(lambda its: _try(copies, its), tests)
  for its, (fails, seconds) in zip(tests, without, strict=True):
    print(f"{'FAILS' if fails else 'passes':8} {seconds:5.0f} s  {its}")
    if fails:
      return 2
  survivors = 0
  found = pool.map(lambda x: _try(copies, x.tests, x), mutations)
  for mutation, (fails, seconds) in zip(mutations, found, strict=True):
    survivors += not fails
    verdict = "caught" if fails else "SURVIVED"
    print(f"{verdict:8} {seconds:5.0f} s  {mutation.file}: {mutation.new!r}")
  print(f"{len(mutations) - survivors} of {len(mutations)} caught")
  return int(survivors > 0)


def _count(root, mutation):
  """How often the line that is to be changed stands in its file."""
  path = root / "slim" / mutation.file
  return path.read_text().count(mutation.old) if path.exists() else 0


def _copy(root, target):
  """Copies the repository, without environments and what runs have left."""
  ignored = shutil.ignore_patterns(".venv*", ".*_cache", "__pycache__", "runs")
  shutil.copytree(root, target, ignore=ignored)
  return target


def _fails(copy, tests):
  """Tells whether one of the tests fails in a copy."""
  command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header"]
  run = subprocess.run(
    [*command, "-p", "no:cacheprovider"]
    + [f"tests/{name}" for name in tests.split()],
    cwd=copy,
    capture_output=True,
    text=True,
  )
  if run.returncode not in (0, 1, 2):  # 2: they could not be collected.
    raise RuntimeError(run.stdout + run.stderr)
  return run.returncode != 0


def _try(copies, tests, mutation=None):
  """Runs tests in a free copy, with a fault or without; tells if they fail."""
  copy = copies.get()
  started = time.monotonic()
  try:
    if mutation is None:
      return _fails(copy, tests), time.monotonic() - started
    path = copy / "slim" / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
      return _fails(copy, tests), time.monotonic() - started
    finally:
      path.write_text(text)
  finally:
    copies.put(copy)


if __name__ == "__main__":
  sys.exit(main())
