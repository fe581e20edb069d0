"""Whoever makes calls, in any process: routes, links, deadlines."""
