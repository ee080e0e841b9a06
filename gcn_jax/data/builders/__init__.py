"""tfds builders, which turn official archives or folders into array_record files without importing TensorFlow."""
