"""Networks that turn a backbone's feature maps into class scores for each pixel."""
