//! Connections to etcd: where to, with which certificates, and in plain words why not.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::OpenError;

/// How long connecting to one endpoint may take, TLS included.
const CONNECT: Duration = Duration::from_secs(3);

/// How long etcd may take for its first words over TLS; it speaks before we do.
const FIRST_WORDS: Duration = Duration::from_millis(300);

/// The files for TLS towards etcd. They are read again for each connection, so that renewed ones are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA of etcd's serving certificates.
    pub authority: PathBuf,
    /// Our client certificate and its key, where etcd asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) url: Arc<str>,
    host: String,
    port: u16,
    pub(super) tls: bool,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let bad = |why| OpenError::Endpoint { url: url.to_owned(), why };
        let uri: http::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("it has to begin with https:// or http://")),
        };
        if uri.path() != "/" && !uri.path().is_empty() {
            return Err(bad("it has to end after the port"));
        }
        let host = uri.host().ok_or_else(|| bad("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { url: url.trim_end_matches('/').into(), host, port: uri.port_u16().unwrap_or(2379), tls })
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Why there is no connection; nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConnectFailed(Arc<str>);

/// A connected socket.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to an endpoint.
pub(super) async fn dial(
    address: &Address,
    tls: Option<&TlsFiles>,
) -> Result<TokioIo<Box<dyn Io>>, ConnectFailed> {
    let connect = async {
        let socket =
            TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| refused(&e))?;
        socket.set_nodelay(true).map_err(|e| refused(&e))?;
        let (true, Some(files)) = (address.tls, tls) else {
            return Ok::<Box<dyn Io>, String>(Box::new(socket));
        };
        let config = load(files).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| format!("{:?} is no name that a certificate can have", address.host))?;
        // What does not speak TLS closes, and if we were still speaking, the kernel makes that a reset.
        let failed = |e: io::Error| match explain(&e) {
            Some(why) => why,
            None if is_end(&e) => {
                "it ends the connection instead of TLS; does its URL have to begin with http://?".into()
            }
            None => format!("TLS failed: {e}"),
        };
        let stream = TlsConnector::from(config).connect(name, socket).await.map_err(failed)?;
        let (mut read, write) = tokio::io::split(stream);
        // Since TLS 1.3 the other side tells only now whether it takes our certificate: in place of its first words.
        let mut first = vec![0; 1024];
        match tokio::time::timeout(FIRST_WORDS, read.read(&mut first)).await {
            Ok(Ok(0)) => Err(CLOSED.into()),
            Ok(Ok(count)) => {
                first.truncate(count);
                Ok(Box::new(tokio::io::join(io::Cursor::new(first).chain(read), write)) as Box<dyn Io>)
            }
            Ok(Err(e)) if explain(&e).is_none() && is_end(&e) => Err(CLOSED.into()),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => Ok(Box::new(tokio::io::join(read, write))),
        }
    };
    match tokio::time::timeout(CONNECT, connect).await {
        Ok(Ok(io)) => Ok(TokioIo::new(io)),
        Ok(Err(why)) => Err(ConnectFailed(why.into())),
        Err(_) => Err(ConnectFailed(
            format!(
                "no answer for {CONNECT:?}; is the host up, or does a firewall block port {}?",
                address.port
            )
            .into(),
        )),
    }
}

/// Why a connection is of no use that ends right after TLS has begun.
const CLOSED: &str = "it closes the connection at once; does it take our client certificate?";

/// Whether the other side has ended the connection.
fn is_end(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn refused(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused; is etcd running there, and is this one of its --listen-client-urls?".into()
        }
        _ => format!("cannot connect: {e}"),
    }
}

/// Reads the files.
pub(super) fn load(files: &TlsFiles) -> Result<Arc<ClientConfig>, OpenError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |e: &dyn std::fmt::Display| OpenError::File { path: path.clone(), why: e.to_string() }
    };
    let certificates = |path: &PathBuf| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| unusable(path)(&e))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.authority)? {
        roots.add(certificate).map_err(|e| unusable(&files.authority)(&e))?;
    }
    if roots.is_empty() {
        return Err(unusable(&files.authority)(&"it holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&files.authority)(&e))?
        .with_root_certificates(roots);
    let mut config = match &files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key)(&e))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, secret)
                .map_err(|e| unusable(certificate)(&e))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The causes of an error, errors inside of [`io::Error`] included.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut found: Vec<&'a (dyn StdError + 'static)> = Vec::new();
    let mut next = Some(error);
    // A chain longer than this tells nothing more.
    while let (Some(error), true) = (next, found.len() < 16) {
        found.push(error);
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|e| e as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    found
}

/// Whether an error says for sure that the request was never sent.
pub(super) fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    causes(error).into_iter().any(|cause| {
        cause.is::<ConnectFailed>()
            || cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
    })
}

/// The likely reason behind an error of the transport, in words that say what to look at.
pub(super) fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    causes(error).into_iter().find_map(|cause| {
        if let Some(failed) = cause.downcast_ref::<ConnectFailed>() {
            return Some(failed.to_string());
        }
        explain_tls(cause.downcast_ref::<rustls::Error>()?)
    })
}

fn explain_tls(error: &rustls::Error) -> Option<String> {
    Some(match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                "its certificate is not signed by the CA in --etcd-cafile".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is made for other names or addresses ({error})")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired; is the clock right?".into()
            }
            _ => format!("its certificate is not valid ({error})"),
        },
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure,
        ) => format!(
            "it refused our client certificate ({error}); is --etcd-certfile signed by etcd's --trusted-ca-file?"
        ),
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS; does its URL have to begin with http://?".into()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls() {
        let parsed = Address::parse("https://10.0.0.1:2379/").expect("a URL");
        assert_eq!((&*parsed.url, parsed.port, parsed.tls), ("https://10.0.0.1:2379", 2379, true));
        assert_eq!(Address::parse("http://etcd").expect("a URL").port, 2379);
        let v6 = Address::parse("http://[::1]:1").expect("a URL");
        assert!(v6.is_local() && v6.host == "::1");
        assert!(Address::parse("http://127.0.0.1:1").expect("a URL").is_local());
        for bad in ["10.0.0.1:2379", "", "unix:///run/etcd.sock", "https://a/path", "ftp://a"] {
            assert!(matches!(Address::parse(bad), Err(OpenError::Endpoint { .. })), "{bad}");
        }
    }

    /// What is said about a server that ends each connection after the first bytes.
    async fn said_about_an_end(reset: bool) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = dir.path().join("ca.crt");
        let made = rcgen::generate_simple_self_signed(["ca".to_owned()]).expect("a certificate");
        std::fs::write(&authority, made.cert.pem()).expect("written");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            io::Read::read(&mut socket, &mut [0; 4096]).expect("a greeting");
            if reset {
                let linger = Some(Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(&socket, linger).expect("it resets when it closes");
            }
        });
        let address = Address::parse(&url).expect("a URL");
        let Err(said) = dial(&address, Some(&TlsFiles { authority, client: None })).await else {
            panic!("it does not speak TLS")
        };
        server.join().expect("no panic");
        said.to_string()
    }

    #[tokio::test]
    async fn who_ends_the_connection_instead_of_tls_may_want_http() {
        for reset in [false, true] {
            let said = said_about_an_end(reset).await;
            assert!(said.contains("have to begin with http://"), "{said}");
        }
    }

    #[test]
    fn what_was_never_sent_is_told_from_what_broke() {
        let failed = ConnectFailed("no route".into());
        let wrapped = io::Error::other(failed);
        assert!(never_sent(&wrapped));
        assert_eq!(explain(&wrapped).as_deref(), Some("no route"));
        let broke = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(!never_sent(&broke) && explain(&broke).is_none());
    }
}
