//! Clock, back-off, drain, supervised tasks, error chains, telemetry: what every part needs and Kubernetes does not name.
