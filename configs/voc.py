"""The paper's recipe on PASCAL VOC 2012: 21 classes, ResNet-152, k = 15, batch 1, in three stages; and its ablations.

    python run.py --config=configs/voc.py:stage1 --config.data_dir=DIR
    python run.py --config=configs/voc.py:stage2 --config.data_dir=DIR
    python run.py --config=configs/voc.py:stage3 --config.data_dir=DIR

Stage 1 trains on COCO + SBD + VOC at 640, stage 2 on SBD + VOC at 512, stage 3 on VOC train (1,464 images) at 512. Each
stage starts from the best checkpoint of the one before. SBD + VOC is "trainaug", 10,582 images: VOC's train split and
SBD's train and val splits without VOC's val split; an image that both have gets VOC's mask. The paper trains stage 1 on
109,892 images, which fits COCO's train and val splits together (our reading). Here it is only COCO's train split; add
+coco_voc/val to config.data.train for both.

DIR holds VOCdevkit/, benchmark_RELEASE/ and coco/, unpacked or as the official archives; without --config.data_dir
they are downloaded (2, 1.4 and 20 GB).

In the paper the mean IoU on VOC val after the three stages is 75.0, 78.6 and 80.3 (GCN + BR). We have not measured
ours, which needs ImageNet weights and a GPU or TPU. The numbers of steps, the learning rate and its schedule are our
choice.

The ablations train on SBD + VOC at 512 (our reading). They start from ImageNet weights, in --config.init_from=FILE:

    python run.py --config=configs/voc.py:ablation,head=stack3x3,k=7,m=1024,br=false --config.init_from=FILE

    the paper                              after "ablation,"                          mean IoU there
    table 1: baseline, 1x1                 head=conv1x1                               69.0
    table 1: GCN, k = 3, 5, ..., 15        head=gcn,k=3                               70.1, 71.1, ..., 74.5
    table 2: k x k convolution, k = 3..9   head=conv,k=3                              69.8, 70.4, 69.6, 68.8
    table 3: stack of 3x3, k = 3..11       head=stack3x3,k=3                          69.8, 71.8, ..., 67.5
    table 4: the stack's width, k = 7      head=stack3x3,k=7,m=2048 (1024, 210)
    table 5: GCN + BR                      head=gcn,k=15,br=true                      74.7
    table 11: ResNet50, ResNet50-GCN       head=conv1x1,backbone=resnet50 (_gcn)      65.7, 71.2
    ... with GCN + BR                      head=gcn,br=true,backbone=resnet50 (_gcn)  72.3, 72.5

Keys that are left out mean head=gcn, k=15, m=1024, br=false, branches=sum (or concat), backbone=resnet152.

Other systems on the same backbone, data and steps are named likewise; docs/related_work.md lists them:

    python run.py --config=configs/voc.py:compare,decoder=pspnet,aux=true --config.init_from=FILE

Keys that are left out mean decoder=gcn, with br=true, stride=0 (the decoder's own) and aux=false, a second head.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError

TRAINAUG = "voc_segmentation/train+sbd/train+sbd/val-voc_segmentation/val"
STAGES = ("stage1", "stage2", "stage3")
BY_NAME = ("ablation", "compare")  # stages that are followed by keys
_TRUTH: Callable[[str], bool] = {"true": True, "false": False}.__getitem__
# For each key of an ablation its name in config.model, and a function that parses its value.
ABLATION: dict[str, tuple[str, Callable[[str], Any]]] = {
    "head": ("head", str),
    "k": ("kernel_size", int),
    "m": ("head_width", int),
    "br": ("boundary_refine", _TRUTH),
    "branches": ("branches", str),
    "backbone": ("backbone", str),
    "decoder": ("decoder", str),
    "stride": ("output_stride", int),
    "aux": ("auxiliary", _TRUTH),
}


def ablation(stage: str) -> dict[str, Any]:
    """The values that an ablation or a comparison changes in ``config.model``.

    Args:
      stage: such as "ablation,head=gcn,k=7" or "compare,decoder=pspnet".

    Raises:
      UserError: naming the part that is wrong.
    """
    changes: dict[str, Any] = {"boundary_refine": stage.startswith("compare")}
    seen = set()
    for term in stage.split(",")[1:]:
        key, _, text = term.partition("=")
        problem = f"--config=configs/voc.py:{stage}: {term!r}"
        if key not in ABLATION:
            raise UserError(f"{problem} is unknown; known: {', '.join(f'{known}=' for known in ABLATION)}")
        if key in seen:
            raise UserError(f"{problem}: {key} was given before")
        seen.add(key)
        name, parse = ABLATION[key]
        try:
            changes[name] = parse(text)
        except (ValueError, KeyError) as error:
            kind = "true or false" if parse is _TRUTH else "a whole number"
            raise UserError(f"{problem}: {key} must be {kind}") from error
    return changes


def get_config(stage: str = "stage1") -> ml_collections.ConfigDict:
    """The config of a stage, "stage1" to "stage3", or by name, such as "ablation,head=gcn,k=7"."""
    is_by_name = stage.partition(",")[0] in BY_NAME
    if stage not in STAGES and not is_by_name:
        raise UserError(f"--config=configs/voc.py:{stage}: unknown stage; known: {', '.join((*STAGES, *BY_NAME))}")
    config = config_lib.default()
    config.data.eval = "voc_segmentation/val"
    if stage == "stage1":
        config.data.train = f"{TRAINAUG}+coco_voc/train"
        config.data.size = 640
        config.num_steps = 320_000  # 3 epochs
    elif is_by_name:
        config.model.update(ablation(stage))
        config.data.train = TRAINAUG
        config.num_steps = 160_000  # 15 epochs
    elif stage == "stage2":
        config.data.train = TRAINAUG
        config.init_from = "runs/voc/stage1"
        config.num_steps = 160_000  # 15 epochs
    else:
        config.data.train = "voc_segmentation/train"
        config.init_from = "runs/voc/stage2"
        config.num_steps = 44_000  # 30 epochs
    return config
