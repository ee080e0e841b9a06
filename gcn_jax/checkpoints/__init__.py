"""Trained weights on disk: checkpoints, exported files, pretrained backbones."""
