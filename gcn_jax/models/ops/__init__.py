"""How convolutions are computed fast on each kind of device; all else in `models` says what is computed."""
