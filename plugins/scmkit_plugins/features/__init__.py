"""Feature spaces."""
