"""Models: networks under a parameterization, guidance, and changes of process."""
