"""Where each data set's images and labels lie on disk, and the TFDS builder that stores them."""
