//! The revisioned key-value trait of etcd's model, and its backends.
