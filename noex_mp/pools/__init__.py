"""Pools: functions on processes that stay up, and servers in numbers."""
