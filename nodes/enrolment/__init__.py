"""How a node gets its first certificate: `desk` and `door` at the node that holds the authority, `visit` at the new one."""
