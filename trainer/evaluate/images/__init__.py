"""Image sets for evaluations: class folders, labeled data sets, ImageNet-C, CIFAR-10 and CIFAR-10-C."""
