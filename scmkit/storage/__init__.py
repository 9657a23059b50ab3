"""Files, locks, and input that nobody vouches for."""
