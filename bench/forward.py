"""A forward pass of the whole network against an independent PyTorch twin of it.

    python -m bench.forward [--dtype=bfloat16] [--batches 1 4 16]

ResNet-152, 21 classes, k = 15, 512x512, batch 1, float32, all cores, or the GPU if there is one.
"""

from bench.network import main

if __name__ == "__main__":
    main("forward", __doc__)
