"""Trains on your own images with annotations in COCO's format, of any categories.

    python run.py --config=configs/coco.py --config.data_dir=DIR --mode=prepare
    python run.py --config=configs/coco.py --config.data_dir=DIR
    python run.py --config=configs/coco.py:multi_label --config.data_dir=DIR    # each category keeps its own masks

DIR holds the images and their annotations as a tool exports them; gcn_jax/data/coco_folder.py says where they are
looked for. `--mode=prepare` checks every image and annotation and draws a picture of what training would see: look at
it first.

With "multi_label" a pixel may have none, one or several of the categories: where their annotations overlap, none hides
another.

The recipe is that of configs/folder.py, our choice, and needs a GPU or TPU, too.
"""

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError


def get_config(stage: str = "") -> ml_collections.ConfigDict:
    """The config for a folder in COCO's format, of one class a pixel or "multi_label"."""
    if stage not in ("", "multi_label"):
        raise UserError(f"--config=configs/coco.py:{stage}: unknown stage; known: multi_label, or none")
    config = config_lib.default()
    config.data.multi_label = stage == "multi_label"
    config.data.train = "coco/train"
    config.data.eval = "coco/val"
    config.data.size = 512
    config.data.scale = (0.5, 2.0)
    config.data.color_jitter = 0.3
    config.model.backbone = "resnet50"
    config.model.norm = "train"
    config.num_steps = 20_000
    config.batch_size = 4
    config.eval_every = 2000
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "poly"
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    return config
