//! `/exec/{namespace}/{pod}[/{uid}]/{container}`: runs a command in a container.

use http::{Request, Response, StatusCode};
use streaming::{Body, Limits, Streams, body};

use super::runtime_streaming::{RuntimeStreaming, command, serve_session};

/// Serves an exec in the container with this runtime id; the query says what to run and which streams to join.
pub async fn serve_exec<B: Send>(
    request: Request<B>,
    container: &str,
    runtime: &impl RuntimeStreaming,
    limits: &Limits,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let streams = match Streams::from_kubelet_query(query) {
        Ok(streams) => streams,
        Err(error) => return body::text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match runtime.exec_url(container, &command(query), streams).await {
        Ok(url) => serve_session(request, &url, streams, limits).await,
        Err(error) => error.into_response(),
    }
}
