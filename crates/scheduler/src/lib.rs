//! The scheduler: queue, snapshot, framework, plugins, binding.
