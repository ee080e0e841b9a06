"""The training step and what it is made of: loss, optimizer, batch norm's statistics, logs."""
