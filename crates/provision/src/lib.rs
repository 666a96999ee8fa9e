//! Install, upgrade, join and remove as idempotent steps on a host.
