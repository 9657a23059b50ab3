from scmkit.fused_attention.dense import *
