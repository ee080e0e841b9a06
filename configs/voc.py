"""The paper's recipe on PASCAL VOC 2012: 21 classes, ResNet-152, k = 15, batch 1, in three stages.

    python run.py --config=configs/voc.py:stage1 --config.data_dir=DIR
    python run.py --config=configs/voc.py:stage2 --config.data_dir=DIR
    python run.py --config=configs/voc.py:stage3 --config.data_dir=DIR

Stage 1: COCO + SBD + VOC at 640; stage 2: SBD + VOC at 512; stage 3: VOC train (1,464 images) at 512. Each starts
from the best checkpoint of the stage before. SBD + VOC is "trainaug", 10,582 images: VOC's train and SBD's train and
val without VOC's val, and VOC's own mask where there are both. The paper's 109,892 images of stage 1 fit COCO's train
and val together (our reading); here it is COCO's train alone: add +coco_voc/val to config.data.train for all.

DIR holds VOCdevkit/, benchmark_RELEASE/ and coco/, unpacked or as the official archives; without --config.data_dir
they are downloaded (2, 1.4 and 20 GB).

The paper's mean IoU on VOC val after the stages (GCN + BR): 75.0, 78.6, 80.3. Ours is not measured: it needs
ImageNet weights and a GPU or TPU. The numbers of steps, the rate and its schedule are our choice.
"""

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError

TRAINAUG = "voc_segmentation/train+sbd/train+sbd/val-voc_segmentation/val"
STAGES = ("stage1", "stage2", "stage3")


def get_config(stage: str = "stage1") -> ml_collections.ConfigDict:
    """The config of a stage."""
    if stage not in STAGES:
        raise UserError(f"--config=configs/voc.py:{stage}: unknown stage; known: {', '.join(STAGES)}")
    config = config_lib.default()
    config.data.eval = "voc_segmentation/val"
    if stage == "stage1":
        config.data.train = f"{TRAINAUG}+coco_voc/train"
        config.data.size = 640
        config.num_steps = 320_000  # 3 epochs
    elif stage == "stage2":
        config.data.train = TRAINAUG
        config.init_from = "runs/voc/stage1"
        config.num_steps = 160_000  # 15 epochs
    else:
        config.data.train = "voc_segmentation/train"
        config.init_from = "runs/voc/stage2"
        config.num_steps = 44_000  # 30 epochs
    return config
