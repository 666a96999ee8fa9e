//! The words of the Kubernetes API: metadata, selectors, quantities, field paths, patches, Status. No concrete kind.
