"""Kernels: pure functions of arrays that import jax and NumPy alone.

  softmax/     softmax attention, from all scores or block by block
  linear/      linear attention, its feature maps and its state; with decay;
               short convolutions
  lsh/         LSH attention and its hash
  chunk_scan/  a scan over chunks in O(C) memory; position-wise layers
  reversible_layers.py  reversible residual layers
  token_orders.py       which tokens each device of a mesh axis gets
  support/     what several of them share

Import from `slim.kernels`; its files are internal, apart from what the rest of
slim takes from `support/` and `chunk_scan/`. `slim.types` explains the letters
of shapes. A *block* is what a kernel cuts for itself, a *chunk* the unit of the
backward pass of `scan`. `lsh_attention` calls its blocks chunks, like the
Reformer paper.
"""

from slim.kernels.chunk_scan.policies import POLICIES
from slim.kernels.chunk_scan.position_wise import chunked_map, chunked_sum
from slim.kernels.chunk_scan.scan import scan
from slim.kernels.chunk_scan.sum_and_grad import sum_and_grad
from slim.kernels.linear.attention import (
  chunked_linear_attention,
  parallel_linear_attention,
  recurrent_linear_attention,
)
from slim.kernels.linear.convolution import short_convolution
from slim.kernels.linear.feature_maps import (
  FEATURE_MAPS,
  elu_plus_one,
  relu,
  square,
)
from slim.kernels.linear.gated_attention import (
  chunked_gated_linear_attention,
  init_gated_state,
  recurrent_gated_linear_attention,
)
from slim.kernels.linear.prefix_sums import (
  PrefixSums,
  add_sums,
  init_prefix_sums,
  rewind_prefix_sums,
  token_sums,
)
from slim.kernels.linear.random_features import (
  positive_random_features,
  positive_random_query_features,
  sample_projection,
)
from slim.kernels.linear.sequence_parallel import (
  exchange_sums,
  sequence_parallel_linear_attention,
)
from slim.kernels.lsh.attention import lsh_attention
from slim.kernels.lsh.buckets import lsh_buckets
from slim.kernels.reversible_layers import (
  reversible,
  reversible_scan,
)
from slim.kernels.softmax.append import append_softmax_attention
from slim.kernels.softmax.chunked import (
  chunked_softmax_attention,
  chunked_softmax_attention_and_lse,
)
from slim.kernels.softmax.definition import (
  merge_attention,
  softmax_attention,
  softmax_attention_and_lse,
)
from slim.kernels.softmax.flax_drop_in import attention_fn
from slim.kernels.softmax.kv_cache import KVCache, init_cache
from slim.kernels.softmax.ring import ring_attention
from slim.kernels.token_orders import chunk_order, zigzag_order

__all__ = [
  "FEATURE_MAPS",
  "KVCache",
  "POLICIES",
  "PrefixSums",
  "add_sums",
  "append_softmax_attention",
  "attention_fn",
  "chunk_order",
  "chunked_gated_linear_attention",
  "chunked_linear_attention",
  "chunked_map",
  "chunked_softmax_attention",
  "chunked_softmax_attention_and_lse",
  "chunked_sum",
  "elu_plus_one",
  "exchange_sums",
  "init_cache",
  "init_gated_state",
  "init_prefix_sums",
  "lsh_attention",
  "lsh_buckets",
  "merge_attention",
  "parallel_linear_attention",
  "positive_random_features",
  "positive_random_query_features",
  "recurrent_gated_linear_attention",
  "recurrent_linear_attention",
  "relu",
  "reversible",
  "reversible_scan",
  "rewind_prefix_sums",
  "ring_attention",
  "sample_projection",
  "scan",
  "sequence_parallel_linear_attention",
  "short_convolution",
  "softmax_attention",
  "softmax_attention_and_lse",
  "square",
  "sum_and_grad",
  "token_sums",
  "zigzag_order",
]
