"""The only folder that opens sockets: links, descriptors, the lifeline."""
