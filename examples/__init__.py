"""Example applications, written with the public names only."""
