"""Decisions as pure functions: what follows from an exit, how to stop, which specs are wrong."""
