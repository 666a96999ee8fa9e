//! The table of kinds, the schema facts and the codecs of the Kubernetes 1.36 API. No behaviour, no I/O.
