"""Cats, cows, dogs, horses, people and sheep in photographs: a small network that a CPU trains in 41 minutes.

    pip install onnx
    python examples/thin_backbone.py thin.safetensors
    python examples/animals_folder.py DATA animals
    python run.py --config=configs/animals.py --config.data_dir=animals --config.init_from=thin.safetensors

DATA holds VOC 2012 and SBD; animals/ gets their images of six classes, the rest is background or void. The network is
GCN + BR on a ResNet-50 of half width. docs/results.md has its scores, and pictures.

The recipe is our choice: see docs/results.md for what was tried. The photographs to label should be as large as VOC's,
500 pixels: they are resized by config.eval.scales, so that objects are as large as those in training.

"table" is one run of examples/paper_tables.py: fewer steps, no boundary refinement; the head is set in config.model.
"""

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError


def get_config(stage: str = "") -> ml_collections.ConfigDict:
    """The config of the recipe, or of a run for the "table"."""
    if stage not in ("", "table"):
        raise UserError(f"--config=configs/animals.py:{stage}: unknown stage; known: table, or none")
    config = config_lib.default()
    config.data.train = "folder/train"
    config.data.eval = "folder/val"
    config.data.size = 256
    config.data.scale = (0.5, 1.25)  # of the folder's 320 pixels
    config.data.color_jitter = 0.2
    config.data.rare_share = 0.5  # cows, horses and sheep are rare beside people
    config.data.channels = "BGR"
    config.data.mean = (123.0, 117.0, 104.0)
    config.data.std = (1.0, 1.0, 1.0)
    config.model.backbone = "resnet50"
    config.model.width = 32
    config.model.stem_width = 64
    config.model.strides_in = "v1"
    config.model.kernel_size = 7
    config.model.freeze = "res2"
    config.batch_size = 6
    config.num_steps = 6000
    config.eval_every = 6000  # once: the validation images choose nothing
    config.eval.batch_size = 4
    config.eval.scales = (0.5,)  # of VOC's 500 pixels
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.backbone_rate = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 30.0
    if stage == "table":
        config.model.boundary_refine = False
        config.num_steps = 500
        config.eval_every = 500
    return config
