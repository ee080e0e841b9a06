"""Compares the time of a forward pass of the whole network with that of an independent PyTorch twin.

    python -m bench.forward [--dtype=bfloat16] [--batches 1 4 16]

By default: ResNet-152, 21 classes, k = 15, 512x512, batch 1, float32, on all cores, or on the GPU if there is one.
"""

from bench.network import main

if __name__ == "__main__":
    main("forward", __doc__)
