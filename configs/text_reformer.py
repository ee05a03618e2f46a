"""The bytes of any file, with a Reformer.

A Reformer of the same size as `text_slim.py`, on the same data: local and LSH
attention in turn, in reversible layers.

Command:   python -m slim.train --config=configs/text_reformer.py \
             --config.data.path=mybook.txt --workdir=runs/text_reformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.text(config)
  presets.reformer(config)
  config.optimizer.update(learning_rate=3e-4, warmup_steps=100)
  return presets.variant(config, variant)
