"""What a server is: no socket, no OS process."""
