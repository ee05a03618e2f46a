"""The bytes of any file, with a Transformer.

A Transformer baseline of the same size as `text_slim.py`, on the same data.

Command:   python -m slim.train --config=configs/text_transformer.py \
             --config.data.path=mybook.txt --workdir=runs/text_transformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.text(config)
  presets.transformer(config)
  config.optimizer.update(learning_rate=3e-4, warmup_steps=100)
  return presets.variant(config, variant)
