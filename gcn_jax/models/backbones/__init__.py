"""Networks from images to features of several strides."""
