"""Devices, processes and XLA's compiler: what a program runs on."""
