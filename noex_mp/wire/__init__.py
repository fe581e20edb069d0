"""Bytes <-> frames <-> values. No I/O."""
