"""tfds builders: official archives or folders -> array_record files; TensorFlow is never imported."""
