"""Training of vision models on ImageNet-Attn shards: contrastive learning guided by maps of human attention."""
