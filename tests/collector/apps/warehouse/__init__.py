"""What the slow shop imports; nothing outside of it, so that its tree is the same everywhere."""
