"""What is built on the public names alone, as a user would build it."""
