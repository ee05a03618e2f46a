"""Copying task of the SLiM paper, with a Reformer.

A Reformer of the same size as `copying_slim.py`, on the same data: one layer of
LSH attention, whose queries are its keys. Learned positions let a token and the
token that it repeats fall into the same bucket.

Command:   python -m slim.train --config=configs/copying_reformer.py \
             --workdir=runs/copying_reformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.copying(config)
  presets.reformer(config)
  config.model.update(attention="lsh", positions="axial")
  config.optimizer.update(learning_rate=1e-3, warmup_steps=500)
  return presets.variant(config, variant)
