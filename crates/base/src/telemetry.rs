//! Logs.
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How much is logged: 0 what is wrong, 1 what changes, 2 decisions, 5 and more everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity(pub u8);

/// Starts logging to standard error. `RUST_LOG`, given as a value, wins over the verbosity; a second call changes
/// nothing.
pub fn start(verbosity: Verbosity, rust_log: Option<&str>) {
    let level = match verbosity.0 {
        0 => "warn",
        1 => "info",
        2..=4 => "debug",
        _ => "trace",
    };
    // What libraries say at info is about themselves. A name stands for all that begin with it: `kube` would be our
    // kubelet too.
    let libraries =
        "hyper=warn,h2=warn,rustls=warn,tower=warn,kube_runtime=warn,hickory_server=warn,tonic=warn";
    // A command that only says what is wrong says it itself, once.
    let client = if verbosity.0 == 0 { "off" } else { "warn" };
    let ours = format!("{level},{libraries},kube_client={client}");
    let filter =
        rust_log.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new(ours));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(true)
        // Where nobody reads any more, there is nobody to tell, and telling would panic.
        .log_internal_errors(false);
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}
