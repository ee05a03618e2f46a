"""Presets for config files: tasks, models, and the smoke variant.

A config file applies a task and a model to the defaults, and then changes what
is particular to it:

    from slim.config import base, presets


    def get_config(variant=""):
      config = base()
      presets.ptb(config)
      presets.transformer(config)
      config.optimizer.learning_rate = 3e-4
      return presets.variant(config, variant)

Tasks set the data, the model's size, the batch size, the number of steps and
the seed. Models set the kind of attention, the layers around it, the gradient
method and, except `performer`, the learning rate schedule. Each preset changes
`config` in place and does not touch the other settings.
"""

from ml_collections import ConfigDict

from slim.data.corpora import CORPORA

# The largest values in the smoke variant. The width and the number of heads are
# not listed: they change together, or the heads might not divide the width.
_SMOKE_LIMITS = {
  "model": dict(
    num_features=32,
    window=16,
    bucket_size=16,
    num_hashes=2,
    heads_at_once=1,  # Divides any number of heads.
    num_kv_heads=1,
    mlp_chunk_size=32,
  ),
  "data": dict(sequence_length=64),
  "gradient": dict(chunk_size=16),
  "optimizer": dict(warmup_steps=0),
  "train": dict(
    num_steps=4,
    batch_size=2,
    accumulation_steps=2,
    log_every=2,
    eval_every=2,
    checkpoint_every=2,
  ),
}


def copying(config: ConfigDict) -> None:
  """Sets the Copying task of the SLiM paper: 512 tokens, one layer."""
  config.seed = 42
  config.model.update(width=256, num_layers=1, num_heads=4)
  config.data.update(name="copying", sequence_length=512, vocab_size=256)
  config.train.update(batch_size=1, num_steps=15_000)
  _set_intervals(config, log_every=100, eval_every=1_000)


def ptb(config: ConfigDict) -> None:
  """Sets PTB in bytes, with the sizes of the SLiM paper's configuration II."""
  config.seed = 42
  config.model.update(width=512, num_layers=3, num_heads=8)
  config.data.update(name="ptb", sequence_length=1024, order="consecutive")
  config.train.update(batch_size=1, num_steps=30_000)
  _set_intervals(config, log_every=100, eval_every=1_000)


def enwik8(config: ConfigDict) -> None:
  """Sets enwik8, with the sizes of the SLiM paper's configuration III.

  Evaluations during training take 100 sequences of the validation split;
  `python -m slim.evaluate` takes all of it.
  """
  config.seed = 42
  config.model.update(width=1024, num_layers=3, num_heads=16)
  config.data.update(name="enwik8", sequence_length=4096, order="consecutive")
  config.train.update(batch_size=1, num_steps=100_000, eval_batches=100)
  _set_intervals(config, log_every=100, eval_every=1_000)


def shakespeare(config: ConfigDict) -> None:
  """Sets Tiny Shakespeare in bytes, small enough for a CPU."""
  config.model.update(width=256, num_layers=2, num_heads=4)
  config.data.update(name="tiny_shakespeare", sequence_length=1024)
  config.train.update(batch_size=4, num_steps=1_000)
  _set_intervals(config, log_every=50, eval_every=250)


def text(config: ConfigDict) -> None:
  """Sets the bytes of any file, which `config.data.path` has to name."""
  config.model.update(width=512, num_layers=3, num_heads=8)
  config.data.update(name="text", sequence_length=4096)
  config.train.update(batch_size=4, num_steps=5_000)
  _set_intervals(config, log_every=50, eval_every=500)


def performer(config: ConfigDict) -> None:
  """Sets linear attention, trained with SLiM; the rest is the default."""
  config.model.attention = "linear"
  config.gradient.update(method="slim", policy="rewind")


def transformer(config: ConfigDict) -> None:
  """Sets softmax attention computed block by block, trained with `full`."""
  config.model.update(attention="chunked_softmax", positions="rotary")
  _set_pre_norm_layers(config)


def reformer(config: ConfigDict) -> None:
  """Alternates local and LSH attention, in reversible layers."""
  config.model.update(
    attention="local,lsh",
    window=128,
    bucket_size=64,
    num_hashes=4,
    positions="rotary",
    reversible=True,
    mlp_chunk_size=512,
  )
  _set_pre_norm_layers(config)


def gated_deltanet(config: ConfigDict) -> None:
  """Sets gated DeltaNet in all layers, trained with SLiM."""
  config.model.update(attention="gdn", positions="rotary")
  _set_pre_norm_layers(config)
  config.gradient.update(method="slim", policy="rewind")


def hybrid(config: ConfigDict) -> None:
  """Sets softmax attention in each fourth layer and gated DeltaNet in others.

  The number of layers should be a multiple of 4.
  """
  gated_deltanet(config)
  config.model.attention = "gdn,gdn,gdn,chunked_softmax"


def variant(config: ConfigDict, name: str) -> ConfigDict:
  """Returns the variant of a config that `--config=FILE:NAME` asks for.

  Args:
    config: All settings of the full variant. They are changed in place.
    name: What follows the colon: "" for the full variant, "smoke" for
      `smoke`.

  Returns:
    `config`.

  Raises:
    ValueError: If `name` is another.
  """
  if name == "smoke":
    smoke(config)
  elif name:
    raise ValueError(
      f"the config file takes the argument 'smoke' or none, got {name!r}: "
      "change single settings with --config.group.setting=value"
    )
  return config


def smoke(config: ConfigDict) -> None:
  """Shrinks any config so that it trains in seconds on a CPU.

  Sizes, lengths and intervals are cut to small limits; smaller values stay. One
  layer remains for each name in `model.attention`. A text is replaced by the
  source code of this module, so nothing is downloaded. It runs on one device,
  unless the config has a mesh.

  Args:
    config: All settings. They are changed in place.
  """
  model, train = config.model, config.train
  if model.width > 64:
    model.update(width=64, num_heads=min(model.num_heads, 2))
  # Assigned only if needed, because it follows the width until it is assigned.
  if model.mlp_width is not None and model.mlp_width > 4 * model.width:
    model.mlp_width = 4 * model.width
  model.num_layers = min(model.num_layers, len(model.attention.split(",")))
  for group, limits in _SMOKE_LIMITS.items():
    for name, largest in limits.items():
      value = config[group][name]
      if value is not None and value > largest:
        config[group][name] = largest
  if config.data.name in ("text", *CORPORA):
    config.data.update(path=__file__, document_lengths=None)
    if config.data.pack_documents is not None:
      config.data.pack_documents = ord("\n")
  if config.mesh is None:
    config.mesh = "data=1"  # Many devices could not share so small a batch.
  train.init_from = None  # Weights of the full size do not fit.
  if config.profile.steps and config.profile.steps[-1] > train.num_steps:
    config.profile.steps = ()


def _set_pre_norm_layers(config: ConfigDict) -> None:
  """Sets pre-norm layers, full gradients, a cosine schedule and clipping."""
  config.model.update(norm="pre", final_norm=True, output_projection=True)
  config.gradient.method = "full"
  config.optimizer.update(schedule="cosine", clip_norm=1.0)


def _set_intervals(
  config: ConfigDict, *, log_every: int, eval_every: int
) -> None:
  """Sets when to log, and when to evaluate and save a checkpoint."""
  config.train.update(
    log_every=log_every, eval_every=eval_every, checkpoint_every=eval_every
  )
