//! One small HTTP GET, for probes and hooks: no pool, no proxy, bounded answer, certificates unchecked as upstream does
//! for probes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

/// The most of an answer's body that is read.
const BODY_LIMIT: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// A request made ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The URL as it is printed in messages.
    pub url: String,
    /// The address to connect to.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
    /// Headers beyond the usual.
    pub headers: Vec<(String, String)>,
}

/// A port by number or by the name that the container gave it.
pub fn port(wanted: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match ports.iter().find(|port| port.name.as_deref() == Some(name)) {
            Some(port) => port.container_port,
            None => name.parse().map_err(|_| format!("couldn't find port: {name:?}"))?,
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// What a probe's or hook's `httpGet` asks for.
pub fn target(action: &HTTPGetAction, ip: &str, ports: &[ContainerPort]) -> Result<Target, String> {
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_owned());
    let port = port(&action.port, ports)?;
    let tls = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let path = action.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let scheme = if tls { "https" } else { "http" };
    let printed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let headers = action
        .http_headers
        .iter()
        .flatten()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    Ok(Target { url: format!("{scheme}://{printed}:{port}{slash}{path}"), host, port, tls, headers })
}

/// The words of Go's dialer for a failed connection.
pub fn dial_error(address: &str, error: &std::io::Error) -> String {
    let words = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {words}")
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Asks, following redirects on the same host; answers the status and the start of the body.
pub async fn get(target: &Target, agent: &str, limit: Duration) -> Result<(StatusCode, String), String> {
    let failed = |error: String| format!("Get \"{}\": {error}", target.url);
    match tokio::time::timeout(limit, follow(target, agent)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => {
            Err(failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()))
        }
    }
}

async fn follow(target: &Target, agent: &str) -> Result<(StatusCode, String), String> {
    let mut uri: Uri = target.url.parse().map_err(|error| format!("{error}"))?;
    for _ in 0..MAX_REDIRECTS {
        let (status, headers, body) = once(target, &uri, agent).await?;
        let next = headers
            .get(http::header::LOCATION)
            .filter(|_| status.is_redirection())
            .and_then(|value| value.to_str().ok());
        let Some(next) = next.and_then(|location| joined(&uri, location)) else { return Ok((status, body)) };
        // A redirect to another host says that this one is alive.
        if next.host() != uri.host() {
            return Ok((status, body));
        }
        uri = next;
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn joined(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let authority = base.authority()?;
    let slash = if location.starts_with('/') { "" } else { "/" };
    format!("{}://{authority}{slash}{location}", base.scheme_str()?).parse().ok()
}

async fn once(target: &Target, uri: &Uri, agent: &str) -> Result<(StatusCode, HeaderMap, String), String> {
    let port = uri.port_u16().unwrap_or(target.port);
    let address = address(&target.host, port);
    let stream = TcpStream::connect(&address).await.map_err(|error| dial_error(&address, &error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(address.clone(), ToString::to_string);
    let mut request = Request::get(path).header(http::header::HOST, authority);
    let has = |name: &str| target.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !has("user-agent") {
        request = request.header(http::header::USER_AGENT, agent);
    }
    if !has("accept") {
        request = request.header(http::header::ACCEPT, "*/*");
    }
    request = request.header(http::header::CONNECTION, "close");
    for (name, value) in &target.headers {
        if name.eq_ignore_ascii_case("host")
            && let Some(headers) = request.headers_mut()
        {
            headers.remove(http::header::HOST);
        }
        if !(name.eq_ignore_ascii_case("accept") && value.is_empty()) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    if uri.scheme_str() == Some("https") {
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        // Pods serve probes with certificates of their own making; upstream does not check them either.
        let stream = tokio_rustls::TlsConnector::from(streaming::dial::unverified())
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    }
}

async fn exchange<S>(io: S, request: Request<Empty<Bytes>>) -> Result<(StatusCode, HeaderMap, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| {
            if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
        })?;
        let (parts, body) = response.into_parts();
        // A longer body is cut, it does not fail the request.
        let mut text = Vec::new();
        let mut body = Limited::new(body, BODY_LIMIT);
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                text.extend_from_slice(&data);
            }
        }
        Ok((parts.status, parts.headers, String::from_utf8_lossy(&text).into_owned()))
    }
    .await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, number: i32) -> ContainerPort {
        ContainerPort { name: Some(name.into()), container_port: number, ..Default::default() }
    }

    #[test]
    fn ports_resolve_by_name() {
        let ports = [named("web", 8080)];
        assert_eq!(port(&IntOrString::Int(80), &ports), Ok(80));
        assert_eq!(port(&IntOrString::String("web".into()), &ports), Ok(8080));
        assert_eq!(port(&IntOrString::String("81".into()), &ports), Ok(81));
        assert!(port(&IntOrString::String("none".into()), &ports).is_err());
        assert!(port(&IntOrString::Int(70000), &ports).is_err());
    }

    #[test]
    fn urls_print_as_upstreams() {
        let action = HTTPGetAction {
            path: Some("healthz?a=b".into()),
            port: IntOrString::Int(80),
            ..Default::default()
        };
        assert_eq!(target(&action, "10.0.0.1", &[]).expect("target").url, "http://10.0.0.1:80/healthz?a=b");
        assert_eq!(target(&action, "fd00::1", &[]).expect("target").url, "http://[fd00::1]:80/healthz?a=b");
    }

    #[tokio::test]
    async fn a_refused_connection_reads_like_gos() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let action = HTTPGetAction { port: IntOrString::Int(i32::from(port)), ..Default::default() };
        let target = target(&action, "127.0.0.1", &[]).expect("target");
        let error = get(&target, "t", Duration::from_secs(5)).await.expect_err("closed");
        assert_eq!(
            error,
            format!(
                "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }
}
