//! `/portForward/{namespace}/{pod}[/{uid}]`: connections to a pod's ports.

use futures::FutureExt;
use http::{Request, Response};
use streaming::{
    Body, Limits, accept, bridge,
    client::{PortForwardClient, PortForwardTransport},
    dial::Dialer,
};

use super::runtime_streaming::{RuntimeStreaming, StreamingError, runtime_uri, tunnel};

/// Serves a port-forward into the sandbox with this runtime id.
///
/// SPDY passes through untouched; WebSocket ends here and goes on as SPDY.
pub async fn serve_port_forward<B: Send>(
    mut request: Request<B>,
    sandbox: &str,
    runtime: &impl RuntimeStreaming,
    limits: &Limits,
) -> Response<Body> {
    let uri = match runtime.port_forward_url(sandbox).await.and_then(|url| runtime_uri(&url)) {
        Ok(uri) => uri,
        Err(error) => return error.into_response(),
    };
    if !streaming::ws::is_upgrade(request.headers()) {
        return tunnel(request, &uri, limits).await;
    }
    let accepted = match accept::port_forward(&mut request, limits) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal,
    };
    let dialer = Dialer::plain();
    let connect = PortForwardClient::connect(&dialer, &uri, PortForwardTransport::Spdy, limits);
    let runtime = match connect.boxed().await {
        Ok(runtime) => runtime,
        Err(error) => return StreamingError::Other(error.to_string()).into_response(),
    };
    let sandbox = sandbox.to_owned();
    tokio::spawn(async move {
        let failure = move |port: u16, reason: &str| {
            format!("error forwarding port {port} to pod {sandbox}, uid : {reason}")
        };
        match accepted.session.await {
            Ok(session) => bridge::port_forward(session, runtime, failure).await,
            Err(error) => tracing::debug!(%error, "no session came of an upgrade"),
        }
    });
    accepted.response
}
