"""The labeler, which reads images and writes ImageNet-Attn shards with attention maps and gaze points."""
