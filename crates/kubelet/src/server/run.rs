//! `/run/{namespace}/{pod}[/{uid}]/{container}?cmd=...`: runs a command to its end and answers with its output.

use http::{Response, StatusCode};
use streaming::{Body, body};

use super::runtime_streaming::RuntimeStreaming;

/// Runs the command of the query in the container with this runtime id.
pub async fn serve_run(query: &str, container: &str, runtime: &impl RuntimeStreaming) -> Response<Body> {
    match runtime.run(container, &command(query)).await {
        Ok(output) => Response::new(body::full(output)),
        Err(error) => body::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// The words of `cmd`, which are told apart by single spaces.
fn command(query: &str) -> Vec<String> {
    let cmd = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "cmd");
    cmd.map(|(_, value)| value.split(' ').map(str::to_owned).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_spaces() {
        assert_eq!(command("cmd=ls%20-l+/tmp&x=1"), ["ls", "-l", "/tmp"]);
        assert_eq!(command(""), Vec::<String>::new());
    }
}
