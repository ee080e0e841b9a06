"""From files on disk to batches of NumPy arrays; imports no jax."""
