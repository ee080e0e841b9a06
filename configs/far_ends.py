"""Trains on `far_ends`, drawn bars whose class only their far end tells: how far does a head see?

    python run.py --config=configs/far_ends.py --config.model.head=conv1x1

A run takes about two minutes on 2 CPU cores. examples/far_ends_figure.py trains all heads of the paper's figure 4 so,
and draws their accuracy against the length of the bars.
"""

import ml_collections

from gcn_jax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
    """The config of one run."""
    config = config_lib.default()
    config.data.train = "far_ends/train"
    config.data.eval = "far_ends/val"
    config.data.size = 160
    config.model.backbone = "resnet14"
    config.model.width = 16
    config.model.kernel_size = 5
    config.model.boundary_refine = False
    config.model.norm = "train"
    config.num_steps = 600
    config.batch_size = 8
    config.eval.batch_size = 8
    config.eval_every = 600
    config.checkpoint_every = 600
    config.log_every = 20
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 5.0
    return config
