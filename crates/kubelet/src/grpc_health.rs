//! One call of the gRPC health protocol, for probes: two tiny messages, so no generated code.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::http_get;
use crate::reconcilers::probe::Outcome;

const ANSWER_LIMIT: usize = 4096;

/// Asks whether `service` is serving.
pub async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let address = http_get::address(host, port);
    match tokio::time::timeout(limit, ask(&address, service)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Failure(format!("error: health rpc failed: {error}")),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {}: context deadline exceeded",
            crate::text::go_duration(limit)
        )),
    }
}

/// A gRPC frame of `HealthCheckRequest { service }`.
fn request_frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// The status in a gRPC frame of `HealthCheckResponse { status }`.
fn status_of(frame: &[u8]) -> Option<u8> {
    match frame.get(5..)? {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

async fn ask(address: &str, service: &str) -> Result<Outcome, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| http_get::dial_error(address, &error))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(Full::new(request_frame(service)))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| error.to_string())?;
        let trailer = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .or(parts.headers.get("grpc-status"));
        let code = trailer.and_then(|value| value.to_str().ok()).unwrap_or("0").to_owned();
        if code != "0" {
            return Err(format!("rpc error: code = {code}"));
        }
        Ok(match status_of(&body.to_bytes()) {
            Some(1) => Outcome::Success,
            Some(status) => Outcome::Failure(format!("service unhealthy (responded with status {status})")),
            None => Outcome::Failure("service unhealthy (unreadable response)".into()),
        })
    }
    .await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_grpc_expects() {
        assert_eq!(&request_frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request_frame("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
        assert_eq!(status_of(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status_of(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status_of(&[0]), None);
    }
}
