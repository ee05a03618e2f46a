"""Faults in generation."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "generate/decoding.py",
    "token = jnp.where(position < prompt_length, given, drawn)",
    "token = jnp.where(position <= prompt_length, given, drawn)",
    "generate/test_decoding.py",
  ),
  Mutation(
    "generate/decoding.py",
    "drawn = sample(fold_in(keys, position), logits, sampling)",
    "drawn = sample(keys, logits, sampling)",
    "generate/test_decoding.py",
  ),
  Mutation(
    "generate/decoding.py",
    "keys = fold_in(key, jnp.arange(batch_size))",
    "keys = fold_in(key, jnp.zeros(batch_size, jnp.int32))",
    "generate/test_decoding.py",
  ),
  Mutation(
    "generate/decoding.py",
    "capacity = -(-stop // _CACHE_BLOCK) * _CACHE_BLOCK",
    "capacity = stop",
    "generate/test_decoding.py",
  ),
  Mutation(
    "generate/sampling.py",
    "keep &= p >= jnp.asarray(sampling.min_p, dtype) * p[..., :1]",
    "pass",
    "generate/test_sampling.py",
  ),
  Mutation(
    "generate/sampling.py",
    " | (rank == 0)",
    "",
    "generate/test_sampling.py",
  ),
  Mutation(
    "generate/scoring.py",
    "tokens[:, start + 1 : end + 1]",
    "tokens[:, start:end]",
    "generate/test_scoring.py",
  ),
  Mutation(
    "models/mixers/local.py",
    "j >= num_before - site.position",
    "j >= 0",
    "models/reformer/test_gradients.py",
  ),
  Mutation(
    "models/mixers/local.py",
    "WindowState(k[:, length:], v[:, length:])",
    "WindowState(k[:, :-length], v[:, :-length])",
    "models/test_past.py",
  ),
  Mutation(
    "data/vocabulary.py",
    "min(int(x), 255)",
    "int(x) % 256",
    "data/test_vocabulary.py",
  ),
  Mutation(
    "data/tokenizer.py",
    "if text.endswith(_INCOMPLETE):",
    "if False:",
    "data/test_vocabulary.py",
  ),
  Mutation(
    "data/tokens.py",
    "smallest < 0 or largest >= vocab_size",
    "largest > vocab_size",
    "data/test_tokens.py",
  ),
  Mutation(
    "training/steps.py",
    "& (norm <= np.float32(skip_above))",
    "",
    "training/test_steps.py",
  ),
]
