//! Wiring of the API server: the resource table and the filter chain.
