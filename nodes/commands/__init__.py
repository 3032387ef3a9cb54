"""One file a command group of `cohortium`; `nodes.cli` loads them only when they are used."""
