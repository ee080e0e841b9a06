"""What a training step costs, by compiling it for devices that need not be there."""
