"""A simulated fleet: nodes that speak to the server, byte for byte, as Flatcar's update_engine does."""
