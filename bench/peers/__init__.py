"""Other libraries, asked for the same things as the runtime, in the same run.

`make bench-peers` installs them into `.venvs/peers` and prints the table. One file is one peer;
`operations` says what each is asked for, and `__main__` runs them and shows what came out. All use
their libraries as their own documentation shows it, with the settings that these have by
themselves; where something else is needed, the peer's `settings` say so, below the table.
"""
