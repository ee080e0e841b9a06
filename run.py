"""Trains, evaluates and applies a model: ``python run.py --config=configs/voc.py:stage3 [--mode=...]``.

It is the command ``gcn_jax``, whose arguments are flags alone.
"""

import sys

from gcn_jax.command import main

if __name__ == "__main__":
    sys.exit(main("run.py"))
