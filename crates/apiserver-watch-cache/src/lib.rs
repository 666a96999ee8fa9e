//! Current objects as encoded bytes and the ring of recent events, shared by all readers.
