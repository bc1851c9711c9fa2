"""The data room: classes, data sets and their preparation, and the pipeline of batches. It imports no JAX."""
