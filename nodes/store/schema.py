"""The tables of a node's store, as plain SQL: one script for each version, never changed once released, only added to.

A store of version n was made by the first n scripts; a newer program runs the rest, in one transaction. Every column that can
hold a secret says that it is sealed: it was, before it came here (`nodes.store.sealing`).
"""

from __future__ import annotations

from mpc.errors import ConfigError

SQLITE = (
    """
    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        identity TEXT NOT NULL,
        proof BLOB NOT NULL,                -- sealed: tells the right storage key
        counter INTEGER NOT NULL,           -- of commits; from here on: nodes.store.audit.Head
        erased_to INTEGER NOT NULL,
        anchor BLOB NOT NULL,
        last INTEGER NOT NULL,
        digest BLOB NOT NULL,
        seal BLOB NOT NULL
    ) STRICT;

    CREATE TABLE rounds (
        id INTEGER PRIMARY KEY,
        round BLOB NOT NULL UNIQUE,
        ended INTEGER,                      -- the counter of the commit that ended it; NULL while it is open
        opened REAL NOT NULL,               -- all times: Unix seconds
        at REAL,                            -- from here to summary: NULL while it is open
        role TEXT NOT NULL,
        study TEXT NOT NULL,
        outcome TEXT,
        code TEXT,
        taken BLOB,
        summary BLOB,
        result BLOB,                        -- sealed
        sealed BLOB NOT NULL                -- sealed; empty when it has ended
    ) STRICT;
    CREATE INDEX rounds_ended ON rounds (ended);

    CREATE TABLE events (
        round INTEGER NOT NULL REFERENCES rounds (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        sealed BLOB NOT NULL,               -- sealed
        piece INTEGER,                      -- instead of it: the number of the file that has it
        PRIMARY KEY (round, number)
    ) STRICT;

    CREATE TABLE receipts (                 -- nodes.store.base.ReceiptPart
        round INTEGER NOT NULL REFERENCES rounds (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        digest BLOB NOT NULL,
        until REAL NOT NULL,
        content BLOB NOT NULL,
        piece INTEGER,                      -- as in events
        PRIMARY KEY (round, number)
    ) STRICT;

    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY,
        round BLOB NOT NULL,                -- no reference: messages outlive their round
        number INTEGER NOT NULL,
        recipient TEXT NOT NULL,
        kind INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        until REAL NOT NULL,
        envelope BLOB NOT NULL,             -- sealed for its recipient
        piece INTEGER,                      -- as in events
        UNIQUE (round, number)
    ) STRICT;

    CREATE TABLE audit (                    -- nodes.store.audit.Kept
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        event TEXT NOT NULL,
        study TEXT NOT NULL,
        content BLOB NOT NULL,
        salt BLOB NOT NULL,
        tag BLOB NOT NULL
    ) STRICT;
    CREATE INDEX audit_at ON audit (at);

    CREATE TABLE ledger (                   -- nodes.store.base.LedgerEntry
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        at REAL NOT NULL,
        until REAL NOT NULL,
        content BLOB NOT NULL,              -- sealed where it tells of values
        UNIQUE (kind, key)
    ) STRICT;

    CREATE TABLE keys (
        id INTEGER PRIMARY KEY,
        key_id BLOB NOT NULL UNIQUE,
        not_after REAL NOT NULL,
        sealed BLOB NOT NULL                -- sealed
    ) STRICT;
    """,
)

# Every key begins with the node: several nodes may share a database.
POSTGRES = (
    """
    CREATE TABLE cohortium.stores (
        node integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        identity text NOT NULL UNIQUE,
        proof bytea NOT NULL,
        counter bigint NOT NULL,
        erased_to bigint NOT NULL,
        anchor bytea NOT NULL,
        last bigint NOT NULL,
        digest bytea NOT NULL,
        seal bytea NOT NULL
    );

    CREATE TABLE cohortium.rounds (
        node integer NOT NULL REFERENCES cohortium.stores,
        round bytea NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,
        ended bigint,
        opened double precision NOT NULL,
        at double precision,
        role text NOT NULL,
        study text NOT NULL,
        outcome text,
        code text,
        taken bytea,
        summary bytea,
        result bytea,
        sealed bytea NOT NULL,
        PRIMARY KEY (node, round)
    );
    CREATE INDEX rounds_ended ON cohortium.rounds (node, ended);

    CREATE TABLE cohortium.events (
        node integer NOT NULL,
        round bytea NOT NULL,
        number integer NOT NULL,
        sealed bytea NOT NULL,
        PRIMARY KEY (node, round, number),
        FOREIGN KEY (node, round) REFERENCES cohortium.rounds ON DELETE CASCADE
    );

    CREATE TABLE cohortium.receipts (
        node integer NOT NULL,
        round bytea NOT NULL,
        number integer NOT NULL,
        digest bytea NOT NULL,
        until double precision NOT NULL,
        content bytea NOT NULL,
        PRIMARY KEY (node, round, number),
        FOREIGN KEY (node, round) REFERENCES cohortium.rounds ON DELETE CASCADE
    );

    CREATE TABLE cohortium.outbox (
        node integer NOT NULL REFERENCES cohortium.stores,
        round bytea NOT NULL,
        number integer NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,
        recipient text NOT NULL,
        kind integer NOT NULL,
        endpoint text NOT NULL,
        until double precision NOT NULL,
        envelope bytea NOT NULL,
        PRIMARY KEY (node, round, number)
    );

    CREATE TABLE cohortium.audit (
        node integer NOT NULL REFERENCES cohortium.stores,
        number bigint NOT NULL,
        at double precision NOT NULL,
        event text NOT NULL,
        study text NOT NULL,
        content bytea NOT NULL,
        salt bytea NOT NULL,
        tag bytea NOT NULL,
        PRIMARY KEY (node, number)
    );
    CREATE INDEX audit_at ON cohortium.audit (node, at);

    CREATE TABLE cohortium.ledger (
        node integer NOT NULL REFERENCES cohortium.stores,
        kind text NOT NULL,
        key text NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,
        at double precision NOT NULL,
        until double precision NOT NULL,
        content bytea NOT NULL,
        PRIMARY KEY (node, kind, key)
    );

    CREATE TABLE cohortium.keys (
        node integer NOT NULL REFERENCES cohortium.stores,
        key_id bytea NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,
        not_after double precision NOT NULL,
        sealed bytea NOT NULL,
        PRIMARY KEY (node, key_id)
    );

    -- Sealed bytes do not compress: do not try.
    ALTER TABLE cohortium.rounds ALTER sealed SET STORAGE EXTERNAL, ALTER result SET STORAGE EXTERNAL;
    ALTER TABLE cohortium.events ALTER sealed SET STORAGE EXTERNAL;
    ALTER TABLE cohortium.outbox ALTER envelope SET STORAGE EXTERNAL;
    """,
)


def refuse_newer(found: int, known: int, where: str) -> None:
    """Raises ConfigError when the store at `where` has a version above those that this program knows."""
    if found > known:
        raise ConfigError(
            f"{where} was written by a newer cohortium (store version {found}, this program knows {known}); "
            f"install that version or a later one, or restore the backup from before the upgrade"
        )


def refuse_stranger(recorded: str, identity: str, where: str) -> None:
    """Raises ConfigError when the store at `where` is another node's."""
    if recorded != identity:
        raise ConfigError(f"{where} is the store of {recorded}, not of {identity}; give each node a state directory of its own")
