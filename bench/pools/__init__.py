"""Pools: ours beside those of others, and beside what one writes by hand.

A part of `make bench`; alone: `make bench ARGS="--only pools --rounds 3"`. `tasks` has the
functions that all of them run, `work` the real workloads; `sides` says how each pool is asked,
`measure` what is measured, and `cases` what it must reach.
"""
