"""Every config value with its default."""

import copy
from typing import Any

import ml_collections

# Means and standard deviations of ImageNet's RGB channels, 0-255, as torchvision states them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# What decides which tensors a model's backbone has and what they mean; equal in all that a run may start from.
BACKBONE = ("backbone", "width", "stem", "stem_width", "strides_in")
# The same for the whole model; equal in every checkpoint that a run may go on from.
_GCN = ("head", "kernel_size", "head_width", "branches", "boundary_refine")
ARCHITECTURE = (*BACKBONE, "decoder", "output_stride", "auxiliary", "fused_scales", "crf", *_GCN)

PREPROCESSING = ("channels", "mean", "std", "depth")  # of config.data: what a model's input is

FOLDERS = ("data_dir", "init_from", "cache_dir")  # keys that name folders or files of this machine

# Keys of earlier versions -> what to set instead. A config that was kept with a run may still have them.
RETIRED = {"predict.crf": "eval.crf"}


# The paper's network and solver, with our choices where the paper is silent; data and length are a recipe's.
_DEFAULTS: dict[str, Any] = {
    "num_steps": 0,  # batches in all
    "batch_size": 1,  # images a step, over all devices
    "seed": 0,  # of initialisation, data order and augmentation
    "data_dir": "",  # where the official files are; empty: download them
    "init_from": "",  # a workdir, whose best weights to start from, a file, or a name of weights; empty: random
    "init_stem": "mean",  # or "repeat", "copy": how a file's RGB kernels become those of bands; see docs/data.md
    "init_scores": "drawn",  # or "zero": random heads start with scores of 0, whatever the scale of the features
    "cache_dir": "~/.cache/gcn_jax",  # downloads, prepared records, compiled programs
    "log_every": 20,  # steps
    "eval_every": 5000,  # steps; an evaluation is also a checkpoint
    "checkpoint_every": 1000,  # steps
    "keep_checkpoints": 2,  # the newest; the best stays besides
    "loggers": "",  # "wandb", "mlflow", "comet" or several, with commas, besides metrics.jsonl and TensorBoard
    "model": {  # the arguments of `gcn_jax.build_model`, and the CRF on top
        "backbone": "resnet152",
        "width": 64,
        "stem": "conv7x7",  # or "deep", three 3x3 convolutions
        "stem_width": 0,  # channels of the stem; 0: as many as width
        "decoder": "gcn",  # or another system's, see docs/related_work.md; what follows up to branches is of gcn
        "kernel_size": 15,
        "boundary_refine": True,
        "head": "gcn",
        "head_width": 1024,
        "branches": "sum",
        "output_stride": 0,  # of the backbone, 8, 16 or 32; 0: the decoder's own, as published
        "auxiliary": False,  # a second head on res-4, in training alone
        "fused_scales": (),  # DeepLab-v2's (0.75, 0.5): the maxima of the scores of images at these scales, too
        "crf": "",  # or "rnn", "dpn": a CRF as the last layers, trained with the rest; see docs/crf.md
        "crf_iterations": (5, 10),  # of "rnn", in training and afterwards
        "strides_in": "v1.5",
        "norm": "frozen",  # or "train": by the statistics of the batch
        "decoder_norm": "",  # the same of the decoder and of auxiliary's head; empty: as norm
        "freeze": "",
        "remat": False,
        "dtype": "float32",
        "convolutions": "fast",  # or "plain", XLA's own everywhere: to find out whether a fault is in ours
    },
    "data": {
        "train": "",  # such as "sbd/train+voc_segmentation/train-voc_segmentation/val": see data/sources.py
        "eval": "",
        "classes": (),  # of a `folder` or `coco`, as the lines of a classes.txt; empty: what the folder says
        "multi_label": False,  # a pixel of these may have none, one or several classes, each of which has its own mask
        "first_id": 0,  # the id of a folder's first class in its masks
        "held_out": (),  # digests of the names that were drawn for val, of a `folder` without lists; set by the run
        "exif": "apply",  # or "ignore": a photograph's orientation, where a folder's mask fits both ways
        "white": 0,  # the value of white in images of more than 8 bits; 0: what the file states or holds
        "size": 512,  # training images are cropped and padded to size x size
        "flip": True,  # left and right, every second time; the paper's only augmentation
        "scale": (1.0, 1.0),  # the range of a random factor; beyond the paper, as the next nine
        "place_anywhere": False,  # put images that are smaller than size anywhere in it, not at the top left
        "color_jitter": 0.0,  # brightness, contrast and saturation change by a factor of up to 1 +- this
        "rotate": 0.0,  # the largest angle, either way, degrees; new pixels are of the mean colour, and void
        "blur": 0.0,  # the largest sigma of a Gaussian, pixels
        "noise": 0.0,  # the largest standard deviation of Gaussian noise, 0-255
        "max_class_share": 1.0,  # a crop is drawn again, up to 10 times, while one class covers more of it; 1: off
        "mix": "",  # or "cutmix", "classmix": paste a rectangle, or half of the classes, of a second image ...
        "mix_share": 0.0,  # ... into this share of the images
        "rare_share": 0.0,  # of the images that are drawn by a class, each as likely, and not each once in an epoch
        "mean": IMAGENET_MEAN,  # subtracted, per channel, RGB 0-255 (the paper subtracts the mean) ...
        "std": IMAGENET_STD,  # ... then divided by: our choice, what torchvision's weights expect; of bands: measured
        "channels": "RGB",  # or "BGR", what the model gets; mean and std are given in RGB order for both. Or bands of
        # the files, counted from 1: "4" is the first four, "4,3,2" these in this order, "4," the fourth alone
        "depth": "",  # the kind of the bands' values: uint8, uint16 or float32; set by the run
        "num_threads": 4,  # that read and decode
        "prefetch": 16,  # samples read ahead, or a batch a thread if that is more
    },
    "loss": {
        "name": "cross_entropy",  # or focal, dice, lovasz, or a sum of them: "cross_entropy+0.5*lovasz"
        "class_weights": "",  # "1,2.5,1", or "median_frequency", "inverse", "effective_number": from the training data
        "label_smoothing": 0.0,  # of cross_entropy
        "hardest": 1.0,  # the share of pixels, those with the largest loss, that cross_entropy and focal count ...
        "hardest_min": 0,  # ... but so many at least
        "focal_gamma": 2.0,
        "auxiliary": 0.4,  # the weight of model.auxiliary's loss, PSPNet's; and of fused_scales' and lrr's: 1 in papers
    },
    "optimizer": {
        "name": "sgd",  # or "adamw", "lion"
        "learning_rate": 2.6e-5,  # FCN's 1e-10 on the summed loss of 512 x 512 pixels (our choice)
        "schedule": "fixed",  # or "poly", "cosine", "step", "one_cycle"
        "poly_power": 0.9,
        "drops": (0.6, 0.8),  # of "step": the shares of the training after which the rate is divided by 10
        "warmup_steps": 0,  # over which the rate first rises from 0
        "momentum": 0.99,  # of "sgd"
        "betas": (),  # of "adamw" and "lion"; empty: their papers'
        "weight_decay": 5e-4,
        "backbone_rate": 1.0,  # the backbone's learning rate to that of the rest; model.freeze fixes it
        "crf_rates": (10.0, 1.0),  # the same of model.crf's filters, and of its compatibility
        "layer_decay": 1.0,  # a further factor for each stage of the backbone, from the heads down
        "decay": "all",  # or "kernels": what weight decay applies to
        "loss": "mean",  # over non-void pixels, or their "sum"
        "accumulate": 1,  # batches whose mean gradient makes one update
        "clip_norm": 0.0,  # of the gradient, global; 0: off
        "ema_decay": 0.0,  # of an exponential moving average of the parameters, then evaluated; 0: off
    },
    "eval": {  # how images are labelled, in training's evaluations, --mode=eval and predict
        "batch_size": 1,  # rounded up to a multiple of the mesh's data axis
        "scales": (1.0,),  # by which each image is resized; the probabilities are averaged
        "flip": False,  # also average over the mirrored image
        "window": 0,  # side of the overlapping windows in which images are taken, pixels; 0: whole, if possible
        "stride": 0,  # of the windows, at most; 0: two thirds of their side
        "crf": "",  # "voc" or "10,3,1,4,67,3": refine the probabilities; see `gcn_jax.crf.parse`
        "temperature": 0.0,  # scores are divided by it; 0: what --mode=calibrate has found for the model, or 1
        "checkpoint": "best",  # or "latest": what --mode=eval and predict use
        "best_by": "miou",  # or "loss", "iou_per_class.person", ...: the score of eval.json that the best has
        "num_pictures": 4,  # of the evaluations in training
    },
    "stop": {"patience": 0},  # evaluations without a better score after which training ends; 0: it goes to the end
    "predict": {
        "outputs": "mask,overlay",  # also confidence, entropy, probabilities, polygons
        "bits": 8,  # or 16: of the PNGs of confidence and entropy
        "format": "masks",  # or "voc", "cityscapes": the archive that these evaluation servers take
    },
    "export": {
        "licence": "",  # of the weights, as apache-2.0 or cc-by-4.0; for whoever trained them to say
        "picture": True,  # the last of the run's pictures in the model card on the Hub
    },
    "serve": {  # --mode=serve
        "host": "127.0.0.1",  # the address to listen at: of this machine alone; 0.0.0.0 is all of the network
        "port": 7860,  # 0: any that is free
        "longest": 0,  # side to which the page reduces photos, pixels, unless one chooses another; 0: as in training
        "max_megabytes": 25,  # of a file
        "max_megapixels": 50.0,  # of a photo; at most 134, which is what any mode reads
        "queue": 64,  # photos that are received, wait or are labelled; the next gets the answer "busy"
    },
    "crf_search": {  # --mode=crf_search tries all combinations of these values
        "num_images": 20,  # of data.eval, evenly spaced; 0: all
        "iterations": (10,),
        "position_weight": (3.0,),
        "position_sigma": (1.0, 3.0),
        "bilateral_weight": (4.0, 8.0),
        "sigma_xy": (40.0, 67.0, 100.0),
        "sigma_rgb": (3.0, 6.0, 12.0),
    },
    "reestimate": {  # batch norm's statistics, before the first step
        "batches": 0,  # of training data; 0: off
        "part": "all",  # or "decoder": the backbone keeps those that it has
        "batch_size": 16,
    },
    "receptive_field": {  # of --mode=receptive_field
        "pixels": (0.5, 0.5),  # a row and a column, as fractions of the height and width; and so on
        "images": 8,  # of data.eval, that the gradients are averaged over
    },
    "repeatable": True,  # a GPU gives the same bits at each call; False: it may choose faster operations
    "mesh": {"data": -1, "space": 1},  # devices over batch rows and over image rows; -1: all that are left
    "plan": {"topology": ""},  # of --mode=plan, such as v5e:2x4 or h100:8; empty: the local devices
    "distributed": {  # training over several processes, which share the workdir
        "coordinator": "",  # HOST:PORT, a free port of process 0's host, the same in all; empty: one process
        "num_processes": 1,
        "process_id": 0,  # 0, 1, ..., each once
        "timeout": 100,  # seconds that processes wait for each other at the start, and for a silent one later
    },
}


def default() -> ml_collections.ConfigDict:
    """A config of all keys with their defaults, for a recipe to start from."""
    return ml_collections.ConfigDict(copy.deepcopy(_DEFAULTS))
