"""Pure functions of arrays, which need nothing but jax."""

from slim.kernels.feature_maps import (
  FEATURE_MAPS,
  elu_plus_one,
  relu,
  square,
)
from slim.kernels.linear_attention import (
  chunked_linear_attention,
  parallel_linear_attention,
  recurrent_linear_attention,
)
from slim.kernels.prefix_sums import (
  PrefixSums,
  add_sums,
  init_prefix_sums,
  rewind_prefix_sums,
  token_sums,
)
from slim.kernels.random_features import (
  positive_random_features,
  positive_random_query_features,
  sample_projection,
)
from slim.kernels.scan import POLICIES, scan

__all__ = [
  "FEATURE_MAPS",
  "POLICIES",
  "PrefixSums",
  "add_sums",
  "chunked_linear_attention",
  "elu_plus_one",
  "init_prefix_sums",
  "parallel_linear_attention",
  "positive_random_features",
  "positive_random_query_features",
  "recurrent_linear_attention",
  "relu",
  "rewind_prefix_sums",
  "sample_projection",
  "scan",
  "square",
  "token_sums",
]
