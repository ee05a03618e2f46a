"""Every setting of an experiment, with its unit and its allowed values.

A file in `configs/` calls `base()` and changes what its experiment needs; the
command line changes the rest with `--config.group.setting=value`.
"""

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any

import ml_collections
from ml_collections import config_dict

from slim.config.byte_sizes import parse_size
from slim.files import local_path

_CHOICES = {
  "matmul_precision": ("default", "high", "highest"),
  "model.dtype": ("float32", "bfloat16"),
  "gradient.method": ("full", "remat", "slim", "full_then_slim"),
  "gradient.policy": ("store", "sqrt", "rewind"),
  "optimizer.schedule": ("constant", "cosine", "step"),
}
_NOT_NEGATIVE = (
  "seed",
  "optimizer.warmup_steps",
  "optimizer.decay_factor",
  "optimizer.weight_decay",
)
_OR_NONE = ("gradient.chunk_size",)  # And what is None by default.
_UNIT_INTERVAL = ("model.dropout", "optimizer.beta1", "optimizer.beta2")
_PATHS = ("data.path", "train.init_from")
# Follow others by default, which are to be named where both are wrong.
_FOLLOWERS = ("model.mlp_width",)
_INT_BOUND = 2**31  # Steps and sizes are int32 on devices.


def base() -> ml_collections.ConfigDict:
  """Returns every setting at its default.

  Returns:
    A new `ConfigDict`. A setting that may be None is a placeholder, because a
    plain None has no type and could not be set on the command line.
  """
  config = ml_collections.ConfigDict()
  # Of weights, random features, data and dropout; 0 to 2^32 - 1.
  config.seed = 0
  # Of float32 matrix products on accelerators: "highest" is float32, "high"
  # and "default" are what the device takes for it (TF32, bfloat16).
  config.matmul_precision = "highest"

  config.model = model = ml_collections.ConfigDict()
  model.width = 256  # D.
  model.num_layers = 2  # Each of attention and an MLP.
  model.num_heads = 4  # H; divides the width.
  model.mlp_width = 4 * model.get_oneway_ref("width")  # F; follows the width.
  # "linear", a Performer. Of a Transformer: "softmax" or "chunked_softmax", all
  # scores at once or by blocks; "local", to a window; or "lsh", the Reformer's.
  # Several, as in "local,lsh", are those of the first layers and again of the
  # next. gradient.method "slim" is for "linear" alone.
  model.attention = "linear"
  # Of "linear": "square", "relu", "elu_plus_one"; or "favor": random features,
  # drawn once from the seed, with which it approximates softmax attention.
  model.feature_map = "square"
  # M, features of a head; "favor" only. None: as many as the head is wide.
  model.num_features = config_dict.placeholder(int)
  model.orthogonal_features = True  # "favor" only; True: less variance.
  model.window = 128  # Tokens that a token sees; "local" only.
  model.bucket_size = 64  # Tokens in a bucket and in a chunk; "lsh" only.
  model.num_hashes = 2  # Rounds of hashing; "lsh" only.
  # Whether they are gone through one after the other ("sequential"), in the
  # memory of one, or all at once ("parallel"); "lsh" only.
  model.hash_rounds = "sequential"
  # Heads that are computed at once, in the memory of so many; a divisor of
  # num_heads, or None: all. "lsh" only.
  model.heads_at_once = config_dict.placeholder(int)
  # Gives queries and keys a fixed length. "favor" without it has no "rewind".
  model.qk_norm = False
  # "concatenated": half of the embedding is sinusoids, as in the paper. Added
  # to it: "sinusoidal", or "learned" for up to data.sequence_length tokens, or
  # "axial", the same in the vectors of one row and one column of a square.
  # "rotary": queries and keys are rotated; for softmax alone.
  model.positions = "concatenated"
  # Where LayerNorm stands: before the sublayer ("pre"), after the residual sum
  # ("post") or on what the sublayer adds to it ("output", as in the paper).
  model.norm = "output"
  model.final_norm = False  # A LayerNorm after the last layer.
  model.output_projection = False  # A linear map after the heads.
  # Whether the gradient keeps the activations of one sublayer alone, and
  # computes those of the others backwards. Not for model.norm "post".
  model.reversible = False
  # Tokens that an MLP sees at once, and keeps the activations of; likewise
  # norms, but for "post". None: all.
  model.mlp_chunk_size = config_dict.placeholder(int)
  # The output layer is the embedding's table; not if that is "concatenated".
  model.tied_output = False
  # Of the computation, "float32" or "bfloat16"; parameters are float32.
  model.dtype = "float32"
  model.dropout = 0.0  # Probability that an activation is zeroed; [0, 1).

  config.data = data = ml_collections.ConfigDict()
  # "copying"; the bytes of a published text, "ptb", "enwik8" or
  # "tiny_shakespeare"; or "text", the bytes of any file.
  data.name = "copying"
  # Of the file of a "text"; of the file, the zip or the folder of a published
  # one, None: what tfds has, finds or downloads. None for "copying".
  data.path = config_dict.placeholder(str)
  data.sequence_length = 512  # T, tokens; even for "copying".
  data.vocab_size = 256  # Different tokens; at least 256 for texts.
  # Training sequences of texts: crops at "random", or "consecutive" slices.
  data.order = "random"

  config.gradient = gradient = ml_collections.ConfigDict()
  # "full": one backward pass over the sequence. "remat": the same, recomputing
  # activations. "slim": chunk by chunk. "full_then_slim": the first half of the
  # steps full, the second half slim.
  gradient.method = "slim"
  # C, tokens; above T it is T. "slim" only. None: what memory_budget allows.
  gradient.chunk_size = 128
  # What "slim" keeps of the N states between chunks: all ("store"), about 2 √N,
  # for a forward pass more ("sqrt"), or only the last, from which the others
  # are computed backwards ("rewind").
  gradient.policy = "rewind"
  # Of the device, or on CPUs of the process, such as "2GiB": method, policy and
  # chunk size, which must be None, are those of the fastest gradient that fits.
  gradient.memory_budget = config_dict.placeholder(str)

  config.optimizer = optimizer = ml_collections.ConfigDict()
  optimizer.learning_rate = 1e-3  # The highest of the schedule; > 0.
  # "constant"; "cosine": down to decay_factor * learning_rate at the last step;
  # "step": multiplied by decay_factor from step decay_at on.
  optimizer.schedule = "constant"
  optimizer.warmup_steps = 0  # Steps of linear growth to learning_rate.
  optimizer.decay_at = config_dict.placeholder(int)  # Step; "step" only.
  optimizer.decay_factor = 0.1  # >= 0; "cosine" and "step".
  optimizer.beta1 = 0.9  # Adam; [0, 1).
  optimizer.beta2 = 0.999  # Adam; [0, 1).
  optimizer.epsilon = 1e-8  # Adam; > 0.
  # Largest norm of the whole gradient, in nats a token; None: no clipping.
  optimizer.clip_norm = config_dict.placeholder(float)
  optimizer.weight_decay = 0.0  # Decoupled, of matrices only; >= 0.

  config.train = train = ml_collections.ConfigDict()
  train.num_steps = 1000  # Updates of the weights.
  train.batch_size = 16  # B, sequences an update.
  train.accumulation_steps = 1  # Parts in which they are processed; divides B.
  train.log_every = 50  # Steps.
  train.eval_every = 500  # Steps; the last step is always evaluated.
  # Batches an evaluation while training; None: the whole validation split.
  train.eval_batches = config_dict.placeholder(int)
  train.checkpoint_every = 500  # Steps; the last step is always saved.
  train.keep_checkpoints = 3  # The newest ones; older ones are deleted.
  # A file of `python -m slim.export` with the weights to start from; None: they
  # are sampled. Settings of the model must agree, but for dropout and dtype.
  train.init_from = config_dict.placeholder(str)
  # Whether to write metrics.jsonl as TensorBoard's event files, too.
  train.tensorboard = False

  config.profile = profile = ml_collections.ConfigDict()
  # First and last step of a trace by jax.profiler, such as 10,20, counted as in
  # the log: the first update is step 1. (): no trace.
  profile.steps = ()
  return config


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the settings by their dotted names, in the order of definition.

  Args:
    config: Settings, or a group of settings.

  Returns:
    For instance `{"seed": 0, "model.width": 256, …}`.
  """
  flat = {}
  for name in config:
    value = config[name]
    if isinstance(value, ml_collections.ConfigDict):
      flat.update({f"{name}.{k}": v for k, v in flatten(value).items()})
    else:
      flat[name] = value
  return flat


def types() -> dict[str, type]:
  """Returns the type of each setting by its dotted name, also where it is None.

  Returns:
    For instance `{"seed": int, "model.width": int, "data.path": str, …}`.
  """
  return _types(base())


def _types(config):
  """The types of the settings of a group."""
  found = {}
  for name in config:
    if isinstance(config[name], ml_collections.ConfigDict):
      found |= {f"{name}.{k}": t for k, t in _types(config[name]).items()}
    else:
      found[name] = config.get_type(name)
  return found


def unknown_setting(name: str) -> ValueError:
  """Returns the error for a setting that does not exist.

  Args:
    name: The dotted name, without "config.".

  Returns:
    A ValueError that names the nearest setting, or the settings of the group.
  """
  known = list(flatten(base()))
  group, _, last = name.rpartition(".")
  members = [k for k in known if k.startswith(f"{name}.")]
  if members:
    return ValueError(
      f"config.{name} is a group of settings, not a setting: set one of "
      + ", ".join(f"config.{k}" for k in members)
    )
  # By the last part, whoever forgets the group or takes another is told it.
  by_last = {k.rpartition(".")[2]: k for k in known}
  groups = list(dict.fromkeys(k.partition(".")[0] for k in known if "." in k))
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
  if not group:
    near += difflib.get_close_matches(name, groups, n=1, cutoff=0.75)
  near += [by_last[k] for k in difflib.get_close_matches(last, by_last, n=1)]
  if near:
    hint = f"did you mean config.{near[0]}?"
  else:
    nearby = [k for k in known if k.startswith(f"{group}.")] or known
    hint = "there are " + ", ".join(f"config.{k}" for k in nearby)
  return ValueError(f"config.{name} is no setting: {hint}")


@contextlib.contextmanager
def naming(group: str) -> Iterator[None]:
  """Lets an error about an argument name the setting that the user gave.

  What is created from a group of settings has arguments of the same names, and
  says "width must be …": inside this context "config.model.width must be …".

  Args:
    group: The group that the arguments come from.

  Yields:
    Nothing.

  Raises:
    ValueError: As raised inside, with "config.group." before it.
  """
  try:
    yield
  except ValueError as error:
    raise ValueError(f"config.{group}.{error}") from error


def validate(config: ml_collections.ConfigDict) -> None:
  """Raises if a setting cannot work, before anything is computed or written.

  What only the model and the data can know, such as the names of feature maps
  and the length of a file, they check themselves when they are created.

  Args:
    config: Settings, as `base()` has them.

  Raises:
    ValueError: One line: the setting, what it must be, and what it is.
  """
  check_names(config)
  flat, defaults = flatten(config), flatten(base())
  for name, kind in sorted(types().items(), key=lambda x: x[0] in _FOLLOWERS):
    value = flat[name]
    if value is None:
      ok = defaults[name] is None or name in _OR_NONE
      _require(ok, name, f"{kind.__name__}", None)
      continue
    _require(type(value) is kind, name, f"of type {kind.__name__}", value)
    if name in _CHOICES:
      _require(value in _CHOICES[name], name, f"in {_CHOICES[name]}", value)
    elif name in _UNIT_INTERVAL:
      _require(0 <= value < 1, name, "in [0, 1)", value)
    elif name in _PATHS:
      local_path(f"config.{name}", value)
    elif kind in (int, float):
      zero = name in _NOT_NEGATIVE
      ok = (value > 0 or (zero and value == 0)) and value < float("inf")
      _require(ok, name, ">= 0" if zero else "> 0", value)
      if kind is int and name != "seed":
        _require(value < _INT_BOUND, name, "below 2^31", value)
  _validate_together(config)


def check_names(config: ml_collections.ConfigDict) -> None:
  """Raises if a setting does not exist, or one is missing.

  Args:
    config: Settings.

  Raises:
    ValueError: One line that names the setting.
  """
  found, known = flatten(config), types()
  for name in found:
    if name not in known:
      raise unknown_setting(name)
  for name in known:
    if name not in found:
      raise ValueError(f"config.{name} is missing: start from slim.config.base")


def _validate_together(config: ml_collections.ConfigDict) -> None:
  """Raises if two settings do not fit each other."""
  model, optimizer = config.model, config.optimizer
  _require(config.seed < 2**32, "seed", "below 2^32", config.seed)
  _require(
    model.width % model.num_heads == 0,
    "model.num_heads",
    f"a divisor of config.model.width, which is {model.width}",
    model.num_heads,
  )
  _require(
    config.train.batch_size % config.train.accumulation_steps == 0,
    "train.accumulation_steps",
    f"a divisor of config.train.batch_size, which is {config.train.batch_size}",
    config.train.accumulation_steps,
  )
  _require(
    optimizer.decay_at is not None or optimizer.schedule != "step",
    "optimizer.decay_at",
    "a step number for config.optimizer.schedule='step'",
    optimizer.decay_at,
  )
  gradient = config.gradient
  _require(
    gradient.policy != "rewind"
    or "slim" not in gradient.method
    or model.feature_map != "favor"
    or model.qk_norm,
    "gradient.policy",
    "'sqrt' or 'store' for config.model.feature_map='favor', unless "
    "config.model.qk_norm=True",
    gradient.policy,
  )
  if gradient.memory_budget is not None:
    parse_size("config.gradient.memory_budget", gradient.memory_budget)
    _require(
      gradient.chunk_size is None,
      "gradient.chunk_size",
      "None for config.gradient.memory_budget, which chooses it",
      gradient.chunk_size,
    )
  else:
    _require(
      gradient.chunk_size is not None or "slim" not in gradient.method,
      "gradient.chunk_size",
      "a number of tokens for config.gradient.method="
      f"{gradient.method!r}, unless there is a config.gradient.memory_budget",
      gradient.chunk_size,
    )
  _require(
    not (model.reversible and gradient.method == "remat"),
    "gradient.method",
    "another for config.model.reversible=True, which keeps no activations",
    gradient.method,
  )
  traced, last = config.profile.steps, config.train.num_steps
  _require(
    traced == ()
    or (
      tuple(map(type, traced)) == (int, int)
      and 1 <= traced[0] <= traced[1] <= last
    ),
    "profile.steps",
    f"FIRST,LAST with 1 <= FIRST <= LAST <= {last}, the last step, or ()",
    traced,
  )


def _require(ok: bool, name: str, expected: str, value: Any) -> None:
  """Raises ValueError about the setting `name` unless `ok`."""
  if not ok:
    raise ValueError(f"config.{name} must be {expected}, got {value!r}")
