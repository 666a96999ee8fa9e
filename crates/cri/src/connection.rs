//! The connection to the runtime: address, deadlines, size limits, and one typed method for each call in use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};

use crate::v1;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// The largest message accepted from the runtime (upstream's limit).
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// How long a call that only reads may take.
const READ: Duration = Duration::from_secs(30);
/// How long a call that changes something may take (upstream's `runtimeRequestTimeout`).
const WRITE: Duration = Duration::from_secs(120);
/// An image pull has no progress in CRI v1; this only ends one that hangs.
const PULL: Duration = Duration::from_secs(30 * 60);

/// Why a call to the runtime failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint is not a unix socket path.
    #[error("CRI endpoint {0:?} is not a unix socket path (unix:///path or /path)")]
    Endpoint(String),
    /// The runtime does not speak CRI v1.
    #[error("runtime {runtime} speaks CRI {found}, not v1")]
    Version {
        /// The runtime's name.
        runtime: String,
        /// The API version that it reported.
        found: String,
    },
    /// The runtime answered with an error, or could not be reached.
    #[error("rpc error: code = {} desc = {}", code_name(.0.code()), .0.message())]
    Rpc(#[source] Box<Status>),
}

impl Error {
    /// The gRPC code, where the runtime answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Rpc(status) => Some(status.code()),
            _ => None,
        }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            // containerd reports a vanished task as Unknown with this text.
            Error::Rpc(status) => {
                status.code() == Code::NotFound || status.message().ends_with(": not found")
            }
            _ => false,
        }
    }

    /// Whether the runtime could not be reached at all.
    pub fn is_unavailable(&self) -> bool {
        self.code() == Some(Code::Unavailable)
    }

    /// The runtime's own words, without the wrapping of gRPC.
    pub fn message(&self) -> String {
        match self {
            Error::Rpc(status) => status.message().to_owned(),
            other => other.to_string(),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Rpc(Box::new(status))
    }
}

/// The name that Go's gRPC prints for a code; users search for these words.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Container events as the runtime sends them.
pub struct Events(Streaming<v1::ContainerEventResponse>);

impl Events {
    /// The next event; `None` once the runtime ended the stream.
    pub async fn next(&mut self) -> Option<v1::ContainerEventResponse> {
        self.0.message().await.ok().flatten()
    }
}

/// A client of one CRI runtime; clones share the connection, which is remade when the runtime restarts.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

fn socket_path(endpoint: &str) -> Result<PathBuf, Error> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(Error::Endpoint(endpoint.to_owned()));
    }
    Ok(Path::new(path).to_owned())
}

fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

impl Cri {
    /// Prepares a client of `unix:///path` or `/path`; connects with the first call and again whenever that is needed.
    pub fn new(endpoint: &str) -> Result<Cri, Error> {
        let path = socket_path(endpoint)?;
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(Duration::from_secs(5))
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        Ok(Cri {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        })
    }

    /// The runtime's name and version, after making sure that it speaks CRI v1.
    pub async fn version(&self) -> Result<v1::VersionResponse, Error> {
        let ask = v1::VersionRequest { version: "0.1.0".into() };
        let answer = self.runtime.clone().version(within(Duration::from_secs(5), ask)).await?.into_inner();
        if answer.runtime_api_version != "v1" {
            return Err(Error::Version { runtime: answer.runtime_name, found: answer.runtime_api_version });
        }
        Ok(answer)
    }

    /// The runtime's conditions (`RuntimeReady`, `NetworkReady`).
    pub async fn status(&self) -> Result<v1::StatusResponse, Error> {
        let ask = v1::StatusRequest { verbose: false };
        Ok(self.runtime.clone().status(within(READ, ask)).await?.into_inner())
    }

    /// Creates and starts a sandbox; answers its id.
    pub async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, Error> {
        let ask =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        // The network plugins run inside this call: upstream doubles the limit.
        Ok(self.runtime.clone().run_pod_sandbox(within(WRITE * 2, ask)).await?.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox and everything in it; stopping a stopped one is fine.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let ask = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        absent_is_done(self.runtime.clone().stop_pod_sandbox(within(WRITE, ask)).await)
    }

    /// Removes a sandbox with its containers; removing an absent one is fine.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let ask = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        absent_is_done(self.runtime.clone().remove_pod_sandbox(within(WRITE, ask)).await)
    }

    /// What the runtime knows of one sandbox, addresses included.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        let ask = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(within(READ, ask)).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("sandbox status is empty").into())
    }

    /// The network namespace's process of a sandbox and more, as the runtime's verbose JSON.
    pub async fn pod_sandbox_info(&self, id: &str) -> Result<v1::PodSandboxStatusResponse, Error> {
        let ask = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        Ok(self.runtime.clone().pod_sandbox_status(within(READ, ask)).await?.into_inner())
    }

    /// All sandboxes that match the filter.
    pub async fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, Error> {
        let ask = v1::ListPodSandboxRequest { filter };
        Ok(self.runtime.clone().list_pod_sandbox(within(READ, ask)).await?.into_inner().items)
    }

    /// Creates a container in a sandbox; answers its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let ask = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.runtime.clone().create_container(within(WRITE, ask)).await?.into_inner().container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let ask = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(within(WRITE, ask)).await?;
        Ok(())
    }

    /// Asks a container to stop and kills it after `grace`.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let ask = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace.as_secs() as i64 };
        absent_is_done(self.runtime.clone().stop_container(within(WRITE + grace, ask)).await)
    }

    /// Removes a container; removing an absent one is fine.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let ask = v1::RemoveContainerRequest { container_id: id.to_owned() };
        absent_is_done(self.runtime.clone().remove_container(within(WRITE, ask)).await)
    }

    /// All containers that match the filter.
    pub async fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<v1::Container>, Error> {
        let ask = v1::ListContainersRequest { filter };
        Ok(self.runtime.clone().list_containers(within(READ, ask)).await?.into_inner().containers)
    }

    /// What the runtime knows of one container.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let ask = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().container_status(within(READ, ask)).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("container status is empty").into())
    }

    /// Changes the resources of a running container.
    pub async fn update_container_resources(
        &self,
        id: &str,
        linux: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        let ask = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.runtime.clone().update_container_resources(within(WRITE, ask)).await?;
        Ok(())
    }

    /// Makes the runtime open a container's log file anew, after it was renamed.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), Error> {
        let ask = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime.clone().reopen_container_log(within(READ, ask)).await?;
        Ok(())
    }

    /// Runs a command in a container and waits for its end; the runtime kills it after `limit`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, Error> {
        let seconds = limit.as_secs() as i64 + i64::from(limit.subsec_nanos() > 0);
        let ask = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout: seconds };
        let outer = if limit.is_zero() { PULL } else { limit + READ };
        Ok(self.runtime.clone().exec_sync(within(outer, ask)).await?.into_inner())
    }

    /// The URL at which the runtime serves an exec session.
    pub async fn exec(&self, ask: v1::ExecRequest) -> Result<String, Error> {
        Ok(self.runtime.clone().exec(within(READ, ask)).await?.into_inner().url)
    }

    /// The URL at which the runtime serves an attach session.
    pub async fn attach(&self, ask: v1::AttachRequest) -> Result<String, Error> {
        Ok(self.runtime.clone().attach(within(READ, ask)).await?.into_inner().url)
    }

    /// The URL at which the runtime serves a port-forward session.
    pub async fn port_forward(&self, ask: v1::PortForwardRequest) -> Result<String, Error> {
        Ok(self.runtime.clone().port_forward(within(READ, ask)).await?.into_inner().url)
    }

    /// CPU, memory and disk use of the containers that match the filter.
    pub async fn list_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, Error> {
        let ask = v1::ListContainerStatsRequest { filter };
        Ok(self.runtime.clone().list_container_stats(within(READ, ask)).await?.into_inner().stats)
    }

    /// Container events as they happen; runtimes before containerd 1.7 answer `Unimplemented`.
    pub async fn container_events(&self) -> Result<Events, Error> {
        Ok(Events(self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await?.into_inner()))
    }

    /// All images.
    pub async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        let ask = v1::ListImagesRequest { filter: None };
        Ok(self.images.clone().list_images(within(READ, ask)).await?.into_inner().images)
    }

    /// One image by name or id, if the runtime has it.
    pub async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Error> {
        let ask = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        Ok(self.images.clone().image_status(within(READ, ask)).await?.into_inner().image)
    }

    /// Pulls an image; answers its id.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error> {
        let ask = v1::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config };
        Ok(self.images.clone().pull_image(within(PULL, ask)).await?.into_inner().image_ref)
    }

    /// Removes an image; removing an absent one is fine.
    pub async fn remove_image(&self, image: &str) -> Result<(), Error> {
        let ask = v1::RemoveImageRequest { image: Some(image_spec(image)) };
        absent_is_done(self.images.clone().remove_image(within(WRITE, ask)).await)
    }

    /// The file systems that hold images, and how full they are.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Error> {
        Ok(self.images.clone().image_fs_info(within(READ, v1::ImageFsInfoRequest {})).await?.into_inner())
    }
}

fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn absent_is_done<T>(answer: Result<tonic::Response<T>, Status>) -> Result<(), Error> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_and_paths_and_refuses_the_rest() {
        assert_eq!(socket_path("unix:///run/c.sock").expect("url"), Path::new("/run/c.sock"));
        assert_eq!(socket_path("/run/c.sock").expect("path"), Path::new("/run/c.sock"));
        assert!(matches!(socket_path("tcp://1.2.3.4"), Err(Error::Endpoint(_))));
        assert!(matches!(socket_path(""), Err(Error::Endpoint(_))));
    }

    #[test]
    fn prints_errors_as_go_prints_them() {
        let error = Error::from(Status::new(Code::NotFound, "no such thing"));
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = no such thing");
        assert!(error.is_not_found());
        assert!(Error::from(Status::unknown("task 12: not found")).is_not_found());
    }

    #[tokio::test]
    async fn an_absent_runtime_is_unavailable() {
        let cri = Cri::new("/nonexistent/runtime.sock").expect("client");
        assert!(cri.version().await.expect_err("nothing listens").is_unavailable());
    }
}
