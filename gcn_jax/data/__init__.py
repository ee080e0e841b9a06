"""From files on disk to batches of NumPy arrays; nothing here imports jax."""
