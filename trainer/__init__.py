"""The training job: ImageNet-Attn shards in, contrastive models that know where people look out."""
