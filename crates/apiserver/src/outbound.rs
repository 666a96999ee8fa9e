//! HTTP to others: issuers of tokens, webhooks. Bounded in size and time; connections are used again.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apiserver_authn::HttpClient;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use streaming::dial::Dialer;

/// Answers larger than this are refused.
const LARGEST: usize = 1024 * 1024;
/// A whole exchange may take this long, where nothing else is said.
const TIME: Duration = Duration::from_secs(30);
/// Connections that are kept open for the next request, and for how long.
const IDLE: usize = 16;
const IDLE_TIME: Duration = Duration::from_secs(60);

type Sender = http1::SendRequest<Full<Bytes>>;

/// Sends requests over TLS to servers whose certificates it checks.
pub struct Outbound {
    dialer: Dialer,
    time: Duration,
    idle: Mutex<Vec<(Instant, Sender)>>,
}

/// Why a question got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// What happened.
    pub why: String,
    /// Whether the same question may be answered in a moment.
    pub again: bool,
}

/// What a client of others needs: whom to trust, and who it is.
#[derive(Debug, Clone, Default)]
pub struct OutboundTrust {
    /// PEM of the CAs; none: the machine's own roots.
    pub authorities: Option<String>,
    /// PEM of a client certificate and its key.
    pub identity: Option<(String, String)>,
    /// The name that the server's certificate must have, if not the URL's host.
    pub server_name: Option<String>,
}

impl Outbound {
    /// A client with this trust; the error says what cannot be used.
    pub fn new(trust: &OutboundTrust) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match &trust.authorities {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate = certificate.map_err(|e| e.to_string())?;
                    roots.add(certificate).map_err(|e| e.to_string())?;
                }
            }
            None => {
                for certificate in rustls_native_certs::load_native_certs().certs {
                    // Machines carry a few that nobody can read.
                    let _ = roots.add(certificate);
                }
            }
        }
        if roots.is_empty() {
            return Err("there is no CA certificate to trust".into());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match &trust.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| e.to_string())?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
                builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?
            }
        };
        let mut dialer = Dialer::tls(Arc::new(config));
        if let Some(name) = &trust.server_name {
            let name = name.clone().try_into().map_err(|_| format!("{name:?} is not a server's name"))?;
            dialer = dialer.with_server_name(name);
        }
        Ok(Self { dialer, time: TIME, idle: Mutex::default() })
    }

    /// The same, whose exchanges may take this long.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// Puts a question in JSON to a server, and gives the body of a good answer.
    pub async fn ask(&self, url: &str, question: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let request = Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(question.to_vec())
            .map_err(|e| Unanswered { why: e.to_string(), again: false })?;
        let failed = |why: String, again| Unanswered { why: format!("Post {url:?}: {why}"), again };
        let answer = self.call(request).await.map_err(|why| {
            // A server that restarts cuts its connections; one that is not there at all will not be in a second.
            let cut = why.contains("reset") || why.contains("closed before message completed");
            failed(why, cut)
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let passing =
            [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS, StatusCode::GATEWAY_TIMEOUT];
        let again = passing.contains(&status) || answer.headers().contains_key(RETRY_AFTER);
        Err(failed(format!("the server answered {status}"), again))
    }

    /// A connection that waits for a request.
    fn idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, sender)| since.elapsed() < IDLE_TIME && !sender.is_closed());
        idle.pop().map(|(_, sender)| sender)
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push((Instant::now(), sender));
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Sender, String> {
        let stream = self.dialer.dial(uri).await.map_err(|e| e.to_string())?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // It ends with its sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A client that takes any certificate: for health, asked on this host's own addresses, and nothing else.
    pub fn unverified() -> Self {
        Self { dialer: Dialer::unverified(), time: TIME, idle: Mutex::default() }
    }

    /// A client of servers without TLS.
    pub fn plain() -> Self {
        Self { dialer: Dialer::plain(), time: TIME, idle: Mutex::default() }
    }

    async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, String> {
        let (mut head, body) = request.into_parts();
        let (target, body) = (head.uri.clone(), Bytes::from(body));
        let host = target.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        head.headers.insert(HOST, HeaderValue::from_str(&host).map_err(|e| e.to_string())?);
        head.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("kube-apiserver"));
        let path = target.path_and_query().map_or("/", |p| p.as_str());
        head.uri = path.parse::<Uri>().map_err(|e| e.to_string())?;
        let request = || Request::from_parts(head.clone(), Full::new(body.clone()));
        // The other side may close a connection at any time while it waits: what it never read is sent again.
        while let Some(mut sender) = self.idle() {
            match sender.try_send_request(request()).await {
                Ok(answer) => return self.whole(sender, answer).await,
                Err(mut e) => {
                    if e.take_message().is_none() {
                        return Err(e.into_error().to_string());
                    }
                }
            }
        }
        let mut sender = self.connect(&target).await?;
        let answer = sender.send_request(request()).await.map_err(|e| e.to_string())?;
        self.whole(sender, answer).await
    }

    async fn whole(&self, sender: Sender, answer: Response<Incoming>) -> Result<Response<Vec<u8>>, String> {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|e| e.to_string())?;
        self.keep(sender);
        Ok(Response::from_parts(head, body.to_bytes().to_vec()))
    }
}

#[async_trait]
impl HttpClient for Outbound {
    async fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, String> {
        match tokio::time::timeout(self.time, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.time)),
        }
    }
}
