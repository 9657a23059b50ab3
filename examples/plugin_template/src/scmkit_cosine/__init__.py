"""Two plugins for scmkit: the noise process `cosine` and the loss `huber-ct`."""
