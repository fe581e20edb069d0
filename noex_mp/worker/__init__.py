"""A worker process: the zygote that forks it, and the host that runs servers in it."""
