"""What people run: the command line, and what its commands are made of."""
