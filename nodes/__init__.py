"""The daemons: everything that touches a socket, a disk, a clock or an environment variable."""
