//! What is changed or refused on the way in: one file a plugin.
