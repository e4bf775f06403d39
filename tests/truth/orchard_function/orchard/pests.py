"""Nothing: it is to be found that takes time."""
