"""The paper's recipe on Cityscapes: 19 classes, ResNet-152, k = 25, batch 1, random 800x800 crops, in two stages.

    python run.py --config=configs/cityscapes.py:stage1 --config.data_dir=DIR
    python run.py --config=configs/cityscapes.py:stage2 --config.data_dir=DIR

Stage 1: the 19,998 coarsely labelled extra images and the 2,975 of fine train; stage 2: fine train, from the best
checkpoint of stage 1. DIR holds leftImg8bit/, gtFine/ and gtCoarse/, or the official zip archives.

The paper's mean IoU on val after the stages: 73.0, 76.9. Ours is not measured: it needs ImageNet weights and a GPU or
TPU. The numbers of steps, the rate and its schedule are our choice. Evaluation is the paper's: four crops of 1024x1024,
whose probabilities are averaged where they overlap (the weights are our choice).
"""

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError

STAGES = ("stage1", "stage2")


def get_config(stage: str = "stage1") -> ml_collections.ConfigDict:
    """The config of a stage."""
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
