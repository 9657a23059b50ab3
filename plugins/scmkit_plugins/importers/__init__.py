"""Importers of other people's weights."""
