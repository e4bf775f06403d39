"""What is measured against other clocks: the interpreter's own, a fixture's, and a stopwatch in another process."""
