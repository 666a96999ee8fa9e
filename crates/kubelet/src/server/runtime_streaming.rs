//! What the streaming endpoints need of the runtime, and how they reach its streaming server.

use std::time::Duration;

use async_trait::async_trait;
use cri::{Cri, v1};
use futures::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use streaming::{
    Body, Limits, Streams, accept, body, bridge,
    client::{self, ExecProtocol},
    dial::Dialer,
    proxy::{self, ProxyOptions},
};

/// The runtime as the streaming endpoints see it: each session is served at a URL of the runtime's choice.
#[async_trait]
pub trait RuntimeStreaming: Send + Sync {
    /// Where a command in a container can be run.
    async fn exec_url(
        &self,
        container: &str,
        command: &[String],
        streams: Streams,
    ) -> Result<String, StreamingError>;
    /// Where a container's own streams can be joined.
    async fn attach_url(&self, container: &str, streams: Streams) -> Result<String, StreamingError>;
    /// Where a sandbox's ports can be reached.
    async fn port_forward_url(&self, sandbox: &str) -> Result<String, StreamingError>;
    /// Runs a command to its end; the output is both standard streams.
    async fn run(&self, container: &str, command: &[String]) -> Result<Vec<u8>, StreamingError>;
}

/// Why the runtime serves no session.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamingError {
    /// There is no such container or sandbox.
    #[error("{0}")]
    NotFound(String),
    /// The runtime has too many sessions waiting.
    #[error("{0}")]
    Exhausted(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl StreamingError {
    /// The answer upstream gives.
    pub fn into_response(self) -> Response<Body> {
        let status = match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Exhausted(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = body::text(status, &self.to_string());
        if status == StatusCode::TOO_MANY_REQUESTS {
            // The runtime forgets sessions nobody came for after a minute.
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        response
    }
}

impl From<cri::Error> for StreamingError {
    fn from(error: cri::Error) -> Self {
        let text = error.to_string();
        match error {
            error if error.is_not_found() => Self::NotFound(text),
            error if is_exhausted(&error) => Self::Exhausted(text),
            _ => Self::Other(text),
        }
    }
}

/// How long `/run` lets a command run; the runtime kills it then.
const RUN_LIMIT: Duration = Duration::from_secs(120);

#[async_trait]
impl RuntimeStreaming for Cri {
    async fn exec_url(
        &self,
        container: &str,
        command: &[String],
        streams: Streams,
    ) -> Result<String, StreamingError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let (container_id, cmd) = (container.to_owned(), command.to_owned());
        Ok(self.exec(v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await?)
    }

    async fn attach_url(&self, container: &str, streams: Streams) -> Result<String, StreamingError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let container_id = container.to_owned();
        Ok(self.attach(v1::AttachRequest { container_id, stdin, tty, stdout, stderr }).await?)
    }

    async fn port_forward_url(&self, sandbox: &str) -> Result<String, StreamingError> {
        let pod_sandbox_id = sandbox.to_owned();
        Ok(self.port_forward(v1::PortForwardRequest { pod_sandbox_id, port: Vec::new() }).await?)
    }

    async fn run(&self, container: &str, command: &[String]) -> Result<Vec<u8>, StreamingError> {
        let answer = self.exec_sync(container, command.to_owned(), RUN_LIMIT).await?;
        match answer.exit_code {
            0 => Ok([answer.stdout, answer.stderr].concat()),
            code => Err(StreamingError::Other(format!(
                "command '{}' exited with {code}: {}",
                command.join(" "),
                String::from_utf8_lossy(&answer.stderr)
            ))),
        }
    }
}

fn is_exhausted(error: &cri::Error) -> bool {
    // gRPC's code 8; the name of the enum's crate is no dependency of this one.
    error.code().is_some_and(|code| code as i32 == 8)
}

/// The words of a command, one `command` parameter each.
pub(super) fn command(query: &str) -> Vec<String> {
    let parameters = form_urlencoded::parse(query.as_bytes());
    parameters.filter(|(name, _)| name == "command").map(|(_, value)| value.into_owned()).collect()
}

/// The URL the runtime gave. It is one of this machine, so that no TLS is needed.
pub(super) fn runtime_uri(url: &str) -> Result<Uri, StreamingError> {
    url.parse().map_err(|error| StreamingError::Other(format!("runtime's streaming URL {url:?}: {error}")))
}

/// Joins a client with the runtime's session at `url`.
///
/// SPDY passes through untouched. WebSocket ends here and goes on as SPDY: runtimes do not know version 5, and
/// version 4 cannot tell them that the input has ended.
pub(super) async fn serve_session<B: Send>(
    mut request: Request<B>,
    url: &str,
    streams: Streams,
    limits: &Limits,
) -> Response<Body> {
    let uri = match runtime_uri(url) {
        Ok(uri) => uri,
        Err(error) => return error.into_response(),
    };
    if !streaming::ws::is_upgrade(request.headers()) {
        return tunnel(request, &uri, limits).await;
    }
    let accepted = match accept::remote_command(&mut request, streams, limits) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal,
    };
    let dialer = Dialer::plain();
    let runtime =
        match client::remote_command(&dialer, &uri, streams, ExecProtocol::Spdy, limits).boxed().await {
            Ok(runtime) => runtime,
            Err(error) => return StreamingError::Other(error.to_string()).into_response(),
        };
    tokio::spawn(async move {
        match accepted.session.await {
            Ok(session) => bridge::remote_command(session, runtime).await,
            Err(error) => tracing::debug!(%error, "no session came of an upgrade"),
        }
    });
    accepted.response
}

/// Passes a SPDY connection to the runtime as it is; refuses what is no upgrade.
pub(super) async fn tunnel<B>(request: Request<B>, uri: &Uri, limits: &Limits) -> Response<Body> {
    if !accept::is_spdy_upgrade(request.headers()) {
        return body::text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let dialer = Dialer::plain();
    match proxy::upgrade_proxy(request, uri, &dialer, &ProxyOptions::default(), limits).await {
        Ok(response) => response,
        Err(error) => StreamingError::Other(error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_upstreams_codes() {
        let code = |error: StreamingError| error.into_response().status();
        assert_eq!(code(StreamingError::NotFound("x".into())), StatusCode::NOT_FOUND);
        assert_eq!(code(StreamingError::Other("x".into())), StatusCode::INTERNAL_SERVER_ERROR);
        let exhausted = StreamingError::Exhausted("x".into()).into_response();
        assert_eq!(exhausted.headers()["retry-after"], "60");
    }

    #[test]
    fn a_command_is_its_words_in_order() {
        assert_eq!(command("command=sh&input=1&command=-c&command=a%20%26+b"), ["sh", "-c", "a & b"]);
    }
}
