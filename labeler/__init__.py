"""The labelling job: photographs in, ImageNet-Attn shards out."""
