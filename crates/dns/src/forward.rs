//! Names that are not the cluster's: asked of the host's resolvers, and remembered for a short while.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::Semaphore;

/// Asks others.
pub struct Forwarder {
    resolv_conf: Option<PathBuf>,
    /// Addresses that lead back to us.
    own: Vec<IpAddr>,
    port: u16,
    state: Mutex<State>,
    in_flight: Semaphore,
}

#[derive(Default)]
struct State {
    checked: Option<Instant>,
    modified: Option<SystemTime>,
    resolver: Option<Arc<TokioResolver>>,
}

/// What others said.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Whether it worked.
    pub code: ResponseCode,
    /// The records asked for.
    pub answers: Vec<Record>,
    /// Who says that there are none.
    pub authorities: Vec<Record>,
}

impl Reply {
    fn failed(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }
}

/// As many questions may wait for others at once; more are turned away.
const IN_FLIGHT: usize = 1000;
/// How often, while there are questions, to look whether the host's resolvers changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const KEEP: Duration = Duration::from_secs(30);
const CACHE_ENTRIES: u64 = 10_000;
const MAX_SERVERS: usize = 15;
const LARGEST_FILE: u64 = 64 << 10;

impl Forwarder {
    /// Asks the resolvers that a file in the form of `/etc/resolv.conf` names, leaving out those at `own` addresses.
    pub fn new(resolv_conf: Option<PathBuf>, own: Vec<IpAddr>) -> Self {
        Self::at_port(resolv_conf, own, 53)
    }

    fn at_port(resolv_conf: Option<PathBuf>, own: Vec<IpAddr>, port: u16) -> Self {
        let (state, in_flight) = (Mutex::default(), Semaphore::new(IN_FLIGHT));
        Self { resolv_conf, own, port, state, in_flight }
    }

    /// Looks a name up.
    pub async fn lookup(&self, name: &Name, kind: RecordType) -> Reply {
        let Some(resolver) = self.resolver() else { return Reply::failed(ResponseCode::ServFail) };
        let Ok(_permit) = self.in_flight.try_acquire() else { return Reply::failed(ResponseCode::Refused) };
        match resolver.lookup(name.clone(), kind).await {
            Ok(found) => Reply {
                code: found.message().metadata.response_code,
                answers: found.answers().to_vec(),
                authorities: Vec::new(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Reply {
                code: none.response_code,
                answers: Vec::new(),
                authorities: none.soa.map(|s| (*s).into_record_of_rdata()).into_iter().collect(),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Reply::failed(code),
            Err(error) => {
                tracing::debug!(%name, %kind, %error, "the host's resolvers gave no answer");
                Reply::failed(ResponseCode::ServFail)
            }
        }
    }

    /// The resolver for what the file says now; `None` if it names nobody.
    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let path = self.resolv_conf.as_deref()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.is_some_and(|c| c.elapsed() < LOOK_AGAIN) {
            return state.resolver.clone();
        }
        state.checked = Some(Instant::now());
        let found = std::fs::metadata(path).and_then(|m| Ok((m.modified()?, m.len())));
        let (modified, length) = match found {
            Ok((modified, length)) => (Some(modified), length),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read the host's resolvers");
                return state.resolver.clone();
            }
        };
        if modified == state.modified {
            return state.resolver.clone();
        }
        state.modified = modified;
        let text = if length > LARGEST_FILE {
            String::new()
        } else {
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let servers = servers(&text, &self.own);
        if servers.is_empty() {
            tracing::warn!(path = %path.display(), "the file names no resolver; only names of the cluster are known");
        } else {
            tracing::info!(?servers, "other names are asked of the host's resolvers");
        }
        state.resolver = if servers.is_empty() { None } else { build(&servers, self.port).map(Arc::new) };
        state.resolver.clone()
    }
}

fn build(servers: &[IpAddr], port: u16) -> Option<TokioResolver> {
    let mut config = ResolverConfig::default();
    for ip in servers {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut c| {
            c.port = port;
            c
        });
        config.add_name_server(NameServerConfig::new(*ip, true, connections.into()));
    }
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
    options.edns0 = true;
    options.ndots = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHE_ENTRIES;
    options.positive_max_ttl = Some(KEEP);
    options.negative_max_ttl = Some(KEEP);
    options.preserve_intermediates = true;
    match builder.build() {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::warn!(%error, "cannot ask the host's resolvers");
            None
        }
    }
}

/// The resolvers of a `resolv.conf`, in order, each once.
fn servers(text: &str, own: &[IpAddr]) -> Vec<IpAddr> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(ip) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) else { continue };
        if !own.contains(&ip) && !ip.is_unspecified() && !out.contains(&ip) && out.len() < MAX_SERVERS {
            out.push(ip);
        }
    }
    out
}
