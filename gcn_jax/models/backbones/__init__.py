"""Networks that turn images into feature maps of several strides."""
