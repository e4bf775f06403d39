"""`instrument(app)`: by hand, and under real servers."""
