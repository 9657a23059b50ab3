"""Noise processes, their parameterizations, and where training looks at them."""
