"""Any file as a sequence of bytes, by a Transformer.

Of the size of `text_slim.py`; softmax attention, by blocks.

Command:   python -m slim.train --config=configs/text_transformer.py \
             --config.data.path=mybook.txt \
             --workdir=runs/text_transformer
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
    All settings; without "smoke", `config.data.path` has to be given.
  """
  smoke = is_smoke(arg)
  config = base()
  config.model.width = 64 if smoke else 512
  config.model.num_layers = 1 if smoke else 3
  config.model.num_heads = 2 if smoke else 8
  config.model.attention = "chunked_softmax"
  config.model.positions = "rotary"
  config.model.norm = "pre"
  config.model.final_norm = True
  config.model.output_projection = True
  config.data.name = "text"
  if smoke:
    config.data.path = __file__
  config.data.sequence_length = 64 if smoke else 4096
  config.gradient.method = "full"
  config.optimizer.learning_rate = 3e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 0 if smoke else 100
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 2 if smoke else 4
  config.train.num_steps = 4 if smoke else 5_000
  config.train.log_every = 2 if smoke else 50
  config.train.eval_every = 2 if smoke else 500
  config.train.checkpoint_every = 2 if smoke else 500
  return config
