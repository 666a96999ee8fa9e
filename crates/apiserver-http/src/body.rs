//! Bodies in and out.
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use machinery::{StatusError, StatusResult};

/// What a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A request or response body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The largest request body, as upstream's server (server/config.go, `MaxRequestBodyBytes`).
pub const MAX_REQUEST_BODY: usize = 3 * 1024 * 1024;

/// A body of bytes that are all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a whole request body, at most [`MAX_REQUEST_BODY`] bytes.
pub async fn read(mut body: Body) -> StatusResult<Bytes> {
    let too_large =
        || StatusError::too_large(format!("Request entity too large: limit is {MAX_REQUEST_BODY}"));
    if body.size_hint().lower() > MAX_REQUEST_BODY as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| StatusError::bad_request(format!("the body was not received: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + data.len() > MAX_REQUEST_BODY {
            return Err(too_large());
        }
        // Most bodies come in one frame, which is then not copied.
        if first.is_none() && rest.is_empty() {
            first = Some(data);
        } else {
            if let Some(head) = first.take() {
                rest.extend_from_slice(&head);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}
