"""How time and condition reach a network: embeddings, and norms that they modulate."""
