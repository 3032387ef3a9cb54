"""The protocol: arithmetic, messages, state machines. Pure: no clock, socket, disk, environment or global randomness."""
