"""Finds out what a training step costs by compiling it, also for devices that this machine does not have."""
