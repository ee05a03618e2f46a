"""PTB byte by byte, by a Transformer of the size of `ptb_slim.py`.

The data and the sizes are those of the SLiM paper's configuration II; the
attention is softmax, by blocks.

Command:   python -m slim.train --config=configs/ptb_transformer.py \
             --workdir=runs/ptb_transformer
Hardware:  not run yet.
Time:      not run yet.
Expected:  not run yet.
"""

import ml_collections

from slim.config import base, is_smoke


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the settings; "smoke" trains for seconds, on this very file.

  Args:
    arg: "" or "smoke".

  Returns:
    All settings.
  """
  smoke = is_smoke(arg)
  config = base()
  config.seed = 42
  config.model.width = 64 if smoke else 512
  config.model.num_layers = 1 if smoke else 3
  config.model.num_heads = 2 if smoke else 8
  config.model.attention = "chunked_softmax"
  config.model.positions = "rotary"
  config.model.norm = "pre"
  config.model.final_norm = True
  config.model.output_projection = True
  config.data.name = "ptb"
  if smoke:
    config.data.path = __file__
  config.data.sequence_length = 64 if smoke else 1024
  config.data.order = "consecutive"
  config.gradient.method = "full"
  config.optimizer.learning_rate = 3e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 0 if smoke else 1000
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 2 if smoke else 1
  config.train.num_steps = 4 if smoke else 30_000
  config.train.log_every = 2 if smoke else 100
  config.train.eval_every = 2 if smoke else 1_000
  config.train.checkpoint_every = 2 if smoke else 1_000
  return config
