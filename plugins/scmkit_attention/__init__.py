"""Softmax attention that every JAX transformation passes through, fused on GPUs.

`attention` is `scmkit.attention`; `attention_saveable` is a policy for `jax.checkpoint`.
"""

from scmkit_attention.api import attention as attention
from scmkit_attention.primitives import attention_saveable as attention_saveable
