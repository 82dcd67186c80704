"""Files for other runtimes, each checked against the network that it came from."""
