"""The paper's recipe on Cityscapes: 19 classes, ResNet-152, k = 25, batch 1, random 800x800 crops, in two stages.

    python run.py --config=configs/cityscapes.py:stage1 --config.data_dir=DIR
    python run.py --config=configs/cityscapes.py:stage2 --config.data_dir=DIR

Stage 1 trains on the 19,998 extra images with coarse labels and the 2,975 training images with fine ones. Stage 2
trains on the latter only, from the best checkpoint of stage 1. DIR holds leftImg8bit/, gtFine/ and gtCoarse/, or the
official zip archives.

In the paper the mean IoU on val is 73.0 after stage 1 and 76.9 after stage 2. We have not measured ours, which needs
ImageNet weights and a GPU or TPU. The numbers of steps, the learning rate and its schedule are our choice. Evaluation
is as in the paper: four crops of 1024x1024, whose probabilities are averaged where they overlap (the weights are our
choice).
"""

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError

STAGES = ("stage1", "stage2")


def get_config(stage: str = "stage1") -> ml_collections.ConfigDict:
    """The config of a stage, "stage1" or "stage2"."""
    if stage not in STAGES:
        raise UserError(f"--config=configs/cityscapes.py:{stage}: unknown stage; known: {', '.join(STAGES)}")
    config = config_lib.default()
    config.data.eval = "cityscapes/val"
    config.data.size = 800
    config.model.kernel_size = 25
    config.eval.window = 1024  # the paper's four crops of 1024x1024, which fit at 0, 341, 683 and 1024
    config.eval.stride = 342
    if stage == "stage1":
        config.data.train = "cityscapes/train_extra+cityscapes/train"
        config.num_steps = 115_000  # 5 epochs
    else:
        config.data.train = "cityscapes/train"
        config.init_from = "runs/cityscapes/stage1"
        config.num_steps = 90_000  # 30 epochs
    return config
