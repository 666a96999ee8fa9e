//! Cluster DNS: records of services and pods, the rest forwarded.
