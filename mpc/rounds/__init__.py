"""The state machines of a round: an event in, effects out."""
