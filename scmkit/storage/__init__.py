"""Files that are written whole, locks on directories, and readers of files that come from strangers."""
