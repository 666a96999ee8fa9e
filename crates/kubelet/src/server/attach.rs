//! `/attach/{namespace}/{pod}[/{uid}]/{container}`: joins a container's own streams.

use http::{Request, Response, StatusCode};
use streaming::{Body, Limits, Streams, body};

use super::runtime_streaming::{RuntimeStreaming, serve_session};

/// Serves an attachment to the container with this runtime id; the query says which streams to join.
pub async fn serve_attach<B: Send>(
    request: Request<B>,
    container: &str,
    runtime: &impl RuntimeStreaming,
    limits: &Limits,
) -> Response<Body> {
    let streams = match Streams::from_kubelet_query(request.uri().query().unwrap_or_default()) {
        Ok(streams) => streams,
        Err(error) => return body::text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match runtime.attach_url(container, streams).await {
        Ok(url) => serve_session(request, &url, streams, limits).await,
        Err(error) => error.into_response(),
    }
}
