//! Pure rules of each resource on its way in: defaults, validation, what an update may change; and its printed columns.
