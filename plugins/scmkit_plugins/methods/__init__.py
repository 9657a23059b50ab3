"""Methods: what a model is trained by, one file each."""
