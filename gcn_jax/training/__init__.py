"""The training step and its parts: the loss, the optimizer, batch norm's statistics, logs."""
