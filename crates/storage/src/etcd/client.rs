//! Calls to the members of one etcd: one of them at a time, another when it fails.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::metadata::{Ascii, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};

use super::dial::{self, Address};
use super::proto::auth_client::AuthClient;
use super::proto::{AuthenticateRequest, ResponseHeader};
use super::verdict::{Verdict, judge};
use super::{OpenError, Options};
use crate::Error;

/// How long one attempt may take where another member can be asked instead.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long an attempt may take that cannot be repeated. etcd itself gives up on a write after about seven seconds.
const ONLY_ATTEMPT: Duration = Duration::from_secs(10);
/// The longest retry while calls fail anyway; longer than an election takes.
const IN_TROUBLE: Duration = Duration::from_secs(3);
/// The pause after all members failed; it doubles up to [`PAUSE_LIMIT`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// A connection that carries calls or watches and is silent for so long is asked whether it lives. etcd refuses
/// clients that ask more often than every five seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// An answer of any size: etcd is trusted, and pages are small.
const MESSAGE: usize = i32::MAX as usize;

/// What a call may do when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Ask again: doing it twice is as doing it once.
    Freely,
    /// Never: tell the caller.
    Never,
}

struct Member {
    url: Arc<str>,
    channel: Channel,
}

/// The members of one etcd.
pub(super) struct Client {
    members: Vec<Member>,
    /// The member that is asked first.
    current: AtomicUsize,
    login: Option<Login>,
    retry: Duration,
    /// The highest revision that any answer told.
    seen: watch::Sender<u64>,
    cluster: AtomicU64,
    other_cluster: AtomicBool,
    closed: AtomicBool,
    /// Whether the last call failed everywhere.
    trouble: AtomicBool,
}

struct Login {
    user: String,
    password: String,
    token: RwLock<Option<MetadataValue<Ascii>>>,
}

impl Client {
    pub(super) fn new(options: &Options) -> Result<Self, OpenError> {
        let addresses =
            options.endpoints.iter().map(|url| Address::parse(url)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = addresses.first() else { return Err(OpenError::NoEndpoint) };
        if let Some(secure) = addresses.iter().find(|a| a.tls)
            && options.tls.is_none()
        {
            return Err(OpenError::Endpoint {
                url: secure.url.to_string(),
                why: "https needs the CA of etcd's certificates: --etcd-cafile",
            });
        }
        if let Some(files) = &options.tls {
            dial::load(files)?;
        }
        let local = addresses.iter().position(Address::is_local);
        let current = local.unwrap_or_else(|| {
            // Any of them, so that several API servers do not all ask the same.
            RandomState::new().build_hasher().finish() as usize % addresses.len()
        });
        debug!(first = %first.url, members = addresses.len(), "etcd client made");
        Ok(Self {
            members: addresses.into_iter().map(|address| member(address, options)).collect(),
            current: AtomicUsize::new(current),
            login: options.login.clone().map(|(user, password)| Login {
                user,
                password,
                token: RwLock::default(),
            }),
            retry: options.retry,
            seen: watch::Sender::new(0),
            cluster: AtomicU64::new(0),
            other_cluster: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            trouble: AtomicBool::new(false),
        })
    }

    /// Ends every call and watch.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.seen.send_modify(|_| {});
    }

    /// Whether calls are still made.
    pub(super) fn usable(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        if self.other_cluster.load(Ordering::Acquire) {
            return Err(Error::Failed(
                "etcd is another cluster than before: the endpoints belong to several, or it was restored from a \
                 backup"
                    .into(),
            ));
        }
        Ok(())
    }

    /// The highest revision that any answer told.
    pub(super) fn seen(&self) -> u64 {
        *self.seen.borrow()
    }

    /// Waits until an answer has told this revision, or the end.
    pub(super) async fn wait_for(&self, revision: u64) -> Result<(), Error> {
        let mut seen = self.seen.subscribe();
        let there = |seen: &u64| *seen >= revision || self.usable().is_err();
        seen.wait_for(there).await.map_err(|_| Error::Closed)?;
        self.usable()
    }

    /// Remembers a revision that is known to exist.
    pub(super) fn reached(&self, revision: u64) {
        self.seen.send_if_modified(|seen| {
            let higher = revision > *seen;
            *seen = revision.max(*seen);
            higher
        });
    }

    /// Takes note of an answer's header.
    pub(super) fn note(&self, header: Option<&ResponseHeader>) -> Result<u64, Error> {
        let header = header.ok_or_else(|| Error::Refused("etcd answered without a header".into()))?;
        let before = self
            .cluster
            .compare_exchange(0, header.cluster_id, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|known| known);
        if before != 0 && before != header.cluster_id && !self.other_cluster.swap(true, Ordering::AcqRel) {
            tracing::error!(
                before = format!("{before:x}"),
                now = format!("{:x}", header.cluster_id),
                "etcd is another cluster than before; the API server has to be restarted"
            );
            self.seen.send_modify(|_| {});
        }
        self.usable()?;
        let revision = u64::try_from(header.revision).unwrap_or(0);
        self.reached(revision);
        Ok(revision)
    }

    /// Says once that calls fail, and once that they work again.
    fn set_trouble(&self, why: Option<&str>) {
        let before = self.trouble.swap(why.is_some(), Ordering::AcqRel);
        match why {
            Some(why) if !before => warn!(%why, "calls to etcd fail"),
            None if before => info!("calls to etcd work again"),
            _ => {}
        }
    }

    /// The member to ask now, and its number.
    pub(super) fn member(&self) -> (usize, Channel) {
        let number = self.current.load(Ordering::Acquire) % self.members.len();
        (number, self.members[number].channel.clone())
    }

    /// The URL of a member.
    pub(super) fn url(&self, number: usize) -> &Arc<str> {
        &self.members[number].url
    }

    /// Asks another member from now on, unless somebody turned away from this one already.
    pub(super) fn leave(&self, number: usize) {
        let next = (number + 1) % self.members.len();
        if self.current.compare_exchange(number, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
            && next != number
        {
            debug!(from = %self.members[number].url, to = %self.members[next].url, "asking another member of etcd");
        }
    }

    /// What goes with each request: a member without a leader has to say so at once, and our token.
    pub(super) async fn metadata(&self, channel: &Channel, into: &mut MetadataMap) -> Result<(), Status> {
        into.insert("hasleader", MetadataValue::from_static("true"));
        let Some(login) = &self.login else { return Ok(()) };
        let known = login.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        let token = match known {
            Some(token) => token,
            None => {
                let ask = AuthenticateRequest { name: login.user.clone(), password: login.password.clone() };
                let answer = AuthClient::new(channel.clone()).authenticate(ask).await?.into_inner();
                let token: MetadataValue<Ascii> = answer
                    .token
                    .parse()
                    .map_err(|_| Status::internal("etcd gave a token that is no text"))?;
                *login.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                token
            }
        };
        into.insert("token", token);
        Ok(())
    }

    /// Forgets the token; whether there was one, so that a new one may help.
    pub(super) fn forget_token(&self) -> bool {
        self.login
            .as_ref()
            .is_some_and(|login| login.token.write().unwrap_or_else(PoisonError::into_inner).take().is_some())
    }

    /// Makes a call, of one member after another until one answers.
    pub(super) async fn call<Q, A, F>(
        &self,
        repeat: Repeat,
        question: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Verdict>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        // Others have waited already: whoever asks now is told soon, and may ask again.
        let patience =
            if self.trouble.load(Ordering::Acquire) { self.retry.min(IN_TROUBLE) } else { self.retry };
        let deadline = Instant::now() + patience;
        let mut pause = PAUSE;
        let mut failed: Vec<(usize, Arc<str>)> = Vec::new();
        let mut logins = 0;
        loop {
            let (number, channel) = self.member();
            let attempt = async {
                let mut request = Request::new(question.clone());
                self.metadata(&channel, request.metadata_mut()).await?;
                send(channel.clone(), request).await
            };
            let limit = if repeat == Repeat::Freely { ATTEMPT } else { ONLY_ATTEMPT };
            let verdict = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(answer)) => {
                    self.set_trouble(None);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => judge(&status),
                Err(_) => Verdict::Unknown(format!("no answer for {limit:?}").into()),
            };
            let why = match verdict {
                Verdict::TokenExpired if logins < 2 && self.forget_token() => {
                    logins += 1;
                    continue;
                }
                Verdict::TokenExpired if self.login.is_none() => {
                    return Err(Verdict::Refused(
                        "etcd asks for a user and a password, and none is set".into(),
                    ));
                }
                Verdict::TokenExpired => {
                    return Err(Verdict::Refused("etcd does not take the token that it gave us".into()));
                }
                Verdict::Unknown(why) if repeat == Repeat::Never => {
                    self.leave(number);
                    return Err(Verdict::Unknown(format!("{}: {why}", self.members[number].url).into()));
                }
                Verdict::NothingHappened(why) | Verdict::Unknown(why) => why,
                answer => {
                    self.set_trouble(None);
                    return Err(answer);
                }
            };
            self.leave(number);
            failed.retain(|(other, _)| *other != number);
            failed.push((number, why));
            let everywhere = failed.len() >= self.members.len();
            if everywhere || Instant::now() >= deadline {
                let told = self.tell(&failed);
                self.set_trouble(Some(&told));
                if Instant::now() + pause >= deadline || self.closed.load(Ordering::Acquire) {
                    return Err(Verdict::NothingHappened(told));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LIMIT);
            }
        }
    }

    fn tell(&self, failed: &[(usize, Arc<str>)]) -> Arc<str> {
        let each: Vec<String> =
            failed.iter().map(|(number, why)| format!("{}: {why}", self.members[*number].url)).collect();
        format!("etcd does not answer: {}", each.join("; ")).into()
    }
}

fn member(address: Address, options: &Options) -> Member {
    let url = address.url.clone();
    // Where to and whether with TLS is the connector's; this one only names the host in requests.
    let name = format!("http://{}", url.split("://").last().unwrap_or_default());
    let endpoint = Endpoint::from_shared(name).unwrap_or_else(|_| Endpoint::from_static("http://etcd"));
    let tls = options.tls.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move { dial::dial(&address, tls.as_ref()).await }
    });
    let channel = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(false)
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_with_connector_lazy(connector);
    Member { url, channel }
}

/// The largest answer that is taken.
pub(super) const fn message_limit() -> usize {
    MESSAGE
}
