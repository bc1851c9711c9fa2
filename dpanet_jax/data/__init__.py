"""The data room: classes, TFDS builders, augmentation and the Grain pipeline. It imports no JAX."""
