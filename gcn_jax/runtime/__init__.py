"""What a program runs on: devices, processes, and XLA's compiler."""
