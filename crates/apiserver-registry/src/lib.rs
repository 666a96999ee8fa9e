//! The one generic store: get, list, watch, create, update, patch, delete over strategy, storage and cache.
