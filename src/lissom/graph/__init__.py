"""What the network is: layers, coupled channels, and what was not understood. Read only."""
