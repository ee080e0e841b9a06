"""A split of data and a model -> scores."""
