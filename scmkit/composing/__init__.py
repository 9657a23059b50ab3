"""From the names of plugins to modules: discovery, composition, recipes, and whom to blame."""
