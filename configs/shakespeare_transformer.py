"""Tiny Shakespeare byte by byte, with a Transformer.

A Transformer baseline of the same size as `shakespeare_slim.py`, on the same
data.

Command:   python -m slim.train --config=configs/shakespeare_transformer.py \
             --workdir=runs/shakespeare_transformer
Hardware:  2 cores of an Intel Xeon at 2.5 GHz, shared with other work.
Time:      2 s per step; 13 minutes with --config.train.num_steps=400, as run.
Result:    eval/bpc 2.82 after 400 steps (2026-11-26, jax 0.10.2; not
           run again yet).
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.shakespeare(config)
  presets.transformer(config)
  config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
  return presets.variant(config, variant)
