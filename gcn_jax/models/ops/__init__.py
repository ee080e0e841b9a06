"""How convolutions are computed fast on each kind of device; the rest of `models` says what is computed."""
