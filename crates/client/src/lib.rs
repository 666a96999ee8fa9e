//! A thin layer over `kube`: shared informers, work queue, leader election, event recorder, in-process transport.
//!
//! Every actor (controllers, scheduler, kubelet, proxy, DNS) takes a [`kube::Client`] as a value and reads the
//! cluster through [`Informers`]: one watch for each kind and process, however many parts read it. Each cache runs
//! one task, which ends when the last handle to the cache is dropped.
//!
//! Read [`Informers`] first, then [`Cache`] and [`Changes`]; [`WorkQueue`] is what a controller puts keys into.
//! It knows nothing of the API server's insides, and decides nothing about any kind.
mod backoff;
mod cache;
mod election;
mod informers;
mod key;
mod queue;
mod recorder;
mod reflector;
mod service_accounts;
mod transport;

pub use backoff::Backoff;
pub use cache::{Cache, Change, Changes, Index};
pub use election::{ElectionConfig, Lost, lead};
pub use informers::{Informers, Select, Watched};
pub use key::ObjectKey;
pub use queue::WorkQueue;
pub use recorder::{EventType, Recorder, reference};
pub use service_accounts::ServiceAccounts;
pub use transport::{InClusterError, KubeconfigError, Remote, in_process};
