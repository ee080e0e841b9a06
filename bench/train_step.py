"""A training step of the whole network against an independent PyTorch twin of it.

    python -m bench.train_step [--dtype=bfloat16] [--batches 1 4 16]

ResNet-152, 21 classes, k = 15, 512x512, batch 1, float32, all cores, or the GPU if there is one.
"""

from bench.network import main

if __name__ == "__main__":
    main("train_step", __doc__)
