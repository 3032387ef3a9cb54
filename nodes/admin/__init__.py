"""The local API of a running daemon."""
