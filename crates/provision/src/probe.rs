//! Whether a service works, asked on its own host.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

use crate::plan::Ready;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const LIMIT: usize = 1 << 20;

/// Asks once. The error says what stands in the way, in words.
pub async fn probe(ready: &Ready) -> Result<(), String> {
    let asked = async {
        match ready {
            Ready::None => Ok(()),
            Ready::Tcp { address, port } => connect(SocketAddr::new(*address, *port)).await.map(drop),
            Ready::Socket(path) => {
                let connected = UnixStream::connect(path).await;
                connected.map(drop).map_err(|e| format!("{}: {e}", path.display()))
            }
            Ready::Http { address, port, path } => {
                let at = SocketAddr::new(*address, *port);
                get(connect(at).await?, at, path).await
            }
            Ready::Https { address, port, path, authority, client } => {
                let at = SocketAddr::new(*address, *port);
                let client = client.as_ref().map(|(c, k)| (c.as_path(), k.as_path()));
                get(connect_tls(at, authority, client).await?, at, path).await
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn connect(at: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(at).await.map_err(|e| format!("{at}: {e}"))
}

async fn connect_tls(
    at: SocketAddr,
    authority: &Path,
    client: Option<(&Path, &Path)>,
) -> Result<TlsStream<TcpStream>, String> {
    let tls = tls_client(authority, client)?;
    let stream = connect(at).await?;
    tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(ServerName::from(at.ip()), stream)
        .await
        .map_err(|e| format!("no TLS with {at}: {e}"))
}

fn tls_client(authority: &Path, client: Option<(&Path, &Path)>) -> Result<ClientConfig, String> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|e| format!("cannot read {}: {e}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", authority.display()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let Some((certificate, key)) = client else { return Ok(builder.with_no_client_auth()) };
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|e| format!("cannot read {}: {e}", key.display()))?;
    builder.with_client_auth_cert(certificates(certificate)?, secret).map_err(|e| e.to_string())
}

async fn get<S>(stream: S, at: SocketAddr, path: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (status, _) = exchange(stream, at, http::Request::get(path), Bytes::new()).await?;
    if status.is_success() { Ok(()) } else { Err(format!("{at}{path} answers {status}")) }
}

/// One request and its answer, of which no more is read than anybody would send in earnest.
async fn exchange<S>(
    stream: S,
    at: SocketAddr,
    request: http::request::Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |e: &dyn std::fmt::Display| format!("{at}: {e}");
    let (mut sender, connection) =
        handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let request = request.header(http::header::HOST, at.to_string()).body(Full::new(body));
    let answer = async {
        let answer = sender.send_request(request.map_err(|e| failed(&e))?).await.map_err(|e| failed(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LIMIT).collect().await.map_err(|e| failed(&e))?;
        Ok((status, body.to_bytes()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// Sends JSON to a server with TLS both ways and reads the JSON it answers.
pub(crate) async fn post_json(
    at: SocketAddr,
    authority: &Path,
    client: (&Path, &Path),
    path: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    let asked = async {
        let stream = connect_tls(at, authority, Some(client)).await?;
        let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
        let (status, text) = exchange(stream, at, request, body.to_string().into()).await?;
        if !status.is_success() {
            return Err(format!("{at}{path} answers {status}"));
        }
        serde_json::from_slice(&text).map_err(|e| format!("{at}{path}: {e}"))
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(format!("{at}{path}: no answer within {} s", PATIENCE.as_secs())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_listens_is_told_from_what_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut codes = ["200 OK", "503 Down"].into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    let code = codes.next().unwrap_or("500 Late");
                    let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        let (address, port) = (at.ip(), at.port());
        assert_eq!(probe(&Ready::None).await, Ok(()));
        assert_eq!(probe(&Ready::Tcp { address, port }).await, Ok(()));
        let http = Ready::Http { address, port, path: "/readyz".into() };
        assert_eq!(probe(&http).await, Ok(()));
        assert!(probe(&http).await.expect_err("down").contains("503"));
        let nothing = Ready::Socket("/no/such/socket".into());
        assert!(probe(&nothing).await.expect_err("missing").contains("/no/such/socket"));
    }
}
