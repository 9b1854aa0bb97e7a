"""The image sets that evaluations read: class folders, shards, ImageNet-C and CIFAR-10."""
