//! Bodies in and out.
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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

/// How much of a body that is too large is still taken in, so that the client hears the answer.
const MAX_DISCARDED: usize = 16 * 1024 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Reads a whole request body, at most [`MAX_REQUEST_BODY`] bytes.
pub async fn read(mut body: Body) -> StatusResult<Bytes> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| StatusError::bad_request(format!("the body was not received: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + data.len() > MAX_REQUEST_BODY {
            drop((first, rest));
            discard(body).await;
            let message = format!("Request entity too large: limit is {MAX_REQUEST_BODY}");
            return Err(StatusError::too_large(message));
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

/// A client that is still sending does not listen: an answer in the middle of its body would be lost with the
/// connection.
async fn discard(mut body: Body) {
    let drained = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, drained).await;
}
