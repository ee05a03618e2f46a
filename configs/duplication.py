"""Duplication task of the Reformer paper, learned in minutes on a CPU.

Sequences `0 w 0 w` of 127 symbols; loss and accuracy are of the second w. The
paper has T=1024, this file T=290. One layer with shared queries and keys and 4
rounds of hashing; --config.model.bucket_size=290 attends to all pairs.
`experiments/duplication.py` evaluates with other numbers of rounds than in
training.

Command:   python -m slim.train --config=configs/duplication.py \
             --workdir=runs/duplication
Hardware:  2 cores of an Intel Xeon at 2.5 GHz.
Time:      5 minutes.
Result:    accuracy 1.000 (2026-11-26; not run again yet).
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.reformer(config)
  config.model.update(width=256, num_layers=1, num_heads=4, mlp_width=256)
  config.model.update(attention="lsh", bucket_size=16, positions="axial")
  config.model.update(reversible=False, mlp_chunk_size=None)
  # The copy lies 144 tokens back, which is 8 whole rows of 18 axial positions.
  # With a part of a row, one layer could not find it: rows and columns add up.
  config.data.update(name="copying", sequence_length=290, vocab_size=128)
  config.optimizer.update(learning_rate=1e-3, warmup_steps=100, clip_norm=None)
  config.train.update(batch_size=16, num_steps=800)
  config.train.update(log_every=50, eval_every=400, checkpoint_every=200)
  return presets.variant(config, variant)
