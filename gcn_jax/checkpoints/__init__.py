"""Weights on disk: the checkpoints of a run, exported models, pretrained backbones."""
