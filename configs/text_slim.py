"""The bytes of any file, trained with SLiM.

The first 90 % of the file are for training, the next 5 % for validation and the
last 5 % for testing. Activation memory is that of config.gradient.chunk_size
tokens, so config.data.sequence_length can be as long as time allows.

Command:   python -m slim.train --config=configs/text_slim.py \
             --config.data.path=mybook.txt --workdir=runs/mybook
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.text(config)
  presets.performer(config)
  config.gradient.chunk_size = 512
  config.optimizer.update(
    learning_rate=3e-4, schedule="cosine", warmup_steps=100, clip_norm=1.0
  )
  return presets.variant(config, variant)
