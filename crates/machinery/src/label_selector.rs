//! Label selectors, as text and as the typed `LabelSelector`.
