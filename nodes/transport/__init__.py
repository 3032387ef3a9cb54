"""How envelopes get from node to node."""
