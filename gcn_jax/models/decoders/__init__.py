"""Networks from a backbone's features to scores of each pixel."""
