"""PyTorch, performer-pytorch and Hugging Face's Reformer."""

import functools
import os

import torch
from torch.nn import attention

PACKAGES = ("torch", "transformers", "performer-pytorch")
torch.set_num_threads(len(os.sched_getaffinity(0)))


def load(name, settings, inputs):
  """Makes both passes of an implementation."""
  inputs = {key: torch.from_numpy(x) for key, x in inputs.items()}
  function, arrays, y_ct = _FUNCTIONS[name](settings, **inputs)

  def forward():
    with torch.no_grad():
      return [_in_our_layout(function(*arrays))]

  def gradient():
    leaves = [x.detach().requires_grad_() for x in arrays]
    gradients = torch.autograd.grad(function(*leaves), leaves, y_ct)
    return [_in_our_layout(x) for x in gradients]

  return {"forward": forward, "gradient": gradient}


def _in_our_layout(x):
  """Views [B, H, T, K] as [B, T, H, K]; leaves other arrays."""
  return x.transpose(1, 2) if x.ndim == 4 else x


def _by_heads(*arrays):
  """Copies [B, T, H, K] to [B, H, T, K], the layout of PyTorch."""
  return [x.transpose(1, 2).contiguous() for x in arrays]


def softmax(settings, q, k, v, y_ct):
  """`scaled_dot_product_attention` with one of its backends, or its choice."""
  *arrays, y_ct = _by_heads(q, k, v, y_ct)
  attend = functools.partial(
    torch.nn.functional.scaled_dot_product_attention,
    is_causal=settings["is_causal"],
  )
  if "backend" not in settings:
    return attend, arrays, y_ct
  backend = getattr(attention.SDPBackend, settings["backend"])

  def attend_by_backend(*arrays):
    with attention.sdpa_kernel(backend):
      return attend(*arrays)

  return attend_by_backend, arrays, y_ct


def performer(settings, projection, q, k, v, y_ct):
  """Causal `FastAttention`, which without CUDA takes its plain form."""
  from performer_pytorch import FastAttention

  del settings
  attend = FastAttention(
    dim_heads=q.shape[-1],
    nb_features=len(projection),
    causal=True,
    generalized_attention=True,
  )
  attend.projection_matrix.copy_(projection)
  *arrays, y_ct = _by_heads(q, k, v, y_ct)
  return attend, arrays, y_ct


def lsh(settings, buckets, x, qk_kernel, v_kernel, y_ct):
  """`LSHSelfAttention` of the Reformer, with given buckets."""
  from transformers import ReformerConfig
  from transformers.models.reformer import modeling_reformer

  length, width = x.shape[1:]
  config = ReformerConfig(
    hidden_size=width,
    num_attention_heads=settings["heads"],
    attention_head_size=width // settings["heads"],
    lsh_attn_chunk_length=settings["chunk_size"],
    num_hashes=buckets.shape[2],
    num_buckets=int(buckets.max()) + 1,
    lsh_attention_probs_dropout_prob=0.0,
    is_decoder=settings["is_causal"],
    max_position_embeddings=length,
    axial_pos_embds=False,
  )
  module = modeling_reformer.LSHSelfAttention(config)
  # It sorts all rounds at once, by numbers that differ between rounds.
  rounds = torch.arange(buckets.shape[2])[:, None] * config.num_buckets
  buckets = buckets.long() + rounds

  def attend(x, qk_kernel, v_kernel):
    weights = {"query_key.weight": qk_kernel.T, "value.weight": v_kernel.T}
    call = torch.func.functional_call
    return call(module, weights, (x,), {"buckets": buckets}).hidden_states

  return attend, (x, qk_kernel, v_kernel), y_ct


_FUNCTIONS = {
  "PyTorch": softmax,
  "PyTorch, math": softmax,
  "PyTorch, flash": softmax,
  "PyTorch, memory-efficient": softmax,
  "performer-pytorch": performer,
  "Reformer of transformers": lsh,
}
