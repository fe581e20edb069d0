"""What happens when something goes wrong in a pool: ours, and those of others.

`make bench-faults` prints the table. `tasks` has what the workers are given, `sides` says how each
pool is asked, and `experiments` what is done to it. Each experiment is a program of its own, which
is watched from outside, may take some seconds, and is cleared away afterwards: some of these pools
would hang, or leave processes behind.
"""
