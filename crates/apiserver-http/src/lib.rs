//! Routes, negotiation, discovery, OpenAPI, streaming to clients.
