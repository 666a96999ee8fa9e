//! What names, label keys and values may look like.
