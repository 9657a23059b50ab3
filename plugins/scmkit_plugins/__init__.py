"""The built-in plugins: one file each, found through entry points like anyone else's."""
