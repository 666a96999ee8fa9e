//! How methods that ask others over HTTP do so: somebody else opens the sockets.
use std::sync::Arc;

use async_trait::async_trait;

/// Sends a request to one kind of server and gives back its whole answer. Implementations bound its size and time, and
/// check the server's certificate.
#[async_trait]
pub trait HttpClient: Send + Sync {
    /// The answer; the error is for the server's log.
    async fn call(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, String>;
}

/// A shared client.
pub type SharedHttpClient = Arc<dyn HttpClient>;
