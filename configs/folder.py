"""Trains on your own images and masks.

    python run.py --config=configs/folder.py --config.data_dir=DIR --mode=prepare
    python run.py --config=configs/folder.py --config.data_dir=DIR
    python run.py --config=configs/folder.py:binary --config.data_dir=DIR    # one foreground class
    python run.py --config=configs/folder.py:multi_label --config.data_dir=DIR    # classes that may overlap

DIR holds images/ and masks/, where an image and its mask have the same name; gcn_jax/data/folder.py says which masks
and lists are understood. `--mode=prepare` checks every file and draws a picture of what training would see: look at it
first.

Our choice: ResNet-50, k = 15, batch 4, 512x512 crops, momentum 0.9 with the poly schedule, and batch norm over the
batch, which suits training from random weights. It needs a GPU or TPU; to try it on a CPU, add
--config.model.backbone=resnet14 --config.data.size=256. To start from the weights of another run, also of other
classes, add --config.init_from=WORKDIR.

"binary" has the classes background and foreground, which need no classes.txt: masks are 0 and 1, or black and white.
The best step is the one with the highest IoU of the foreground.

"multi_label" is for classes that may overlap: each has masks of its own, masks/CLASS/NAME.png, of 0 and 1 or black and
white; gcn_jax/data/class_folders.py says how they are read. A pixel may have none, one or several of the classes.
"""

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError


def get_config(stage: str = "") -> ml_collections.ConfigDict:
    """The config for a folder of images and masks, of any classes, "binary", or "multi_label"."""
    if stage not in ("", "binary", "multi_label"):
        raise UserError(f"--config=configs/folder.py:{stage}: unknown stage; known: binary, multi_label, or none")
    config = config_lib.default()
    config.data.multi_label = stage == "multi_label"
    if stage == "binary":
        config.data.classes = ("background 0 0 0", "foreground 255 255 255")
        config.eval.best_by = "iou_per_class.foreground"
    config.data.train = "folder/train"
    config.data.eval = "folder/val"
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
