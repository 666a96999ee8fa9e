//! Ways to reach an API server.
use std::path::Path;

use bytes::Bytes;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, Service, ServiceExt as _};

use crate::service_accounts::ServiceAccounts;

/// A client whose requests go straight into the API server's own service: no socket, no second code path.
///
/// `user_agent` names the actor, as upstream's components do (its part before `/` becomes the field manager).
/// Who the actor is, the service knows: give it one that already carries the identity. Must be called inside a
/// tokio runtime.
pub fn in_process<S, B>(service: S, user_agent: &str) -> Client
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let agent = HeaderValue::from_str(user_agent).unwrap_or(HeaderValue::from_static("cox"));
    let service = service.map_request(move |mut request: Request<Body>| {
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| agent.clone());
        request
    });
    Client::new(service, "default")
}

/// Why a kubeconfig gives no client.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read or makes no sense.
    #[error("cannot use kubeconfig {path}")]
    Read {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Its client certificate is of X.509's first version.
    #[error(
        "cannot make a client from kubeconfig {path}: its client certificate is of X.509 version 1, and version 3 is needed; \
         `openssl x509 -req` makes one with -extfile and -extensions"
    )]
    FirstVersion {
        /// The file.
        path: String,
    },
    /// Its certificates or server make no client.
    #[error("cannot make a client from kubeconfig {path}")]
    Client {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<kube::Error>,
    },
}

/// This process runs in no pod, or in one without an account.
#[derive(Debug, thiserror::Error)]
#[error("no kubeconfig is given, and there is no account of a pod to use")]
pub struct InClusterError(#[source] Box<kube::config::InClusterError>);

/// An API server as the current context of a kubeconfig file names it, with the credentials to speak to it.
#[derive(Clone)]
pub struct Remote {
    path: String,
    config: Config,
    agent: String,
}

impl Remote {
    /// Reads the file. `user_agent` names the actor, as upstream's components do.
    pub async fn from_kubeconfig_file(path: &Path, user_agent: &str) -> Result<Self, KubeconfigError> {
        let name = path.display().to_string();
        let read = |source| KubeconfigError::Read { path: name.clone(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(read)?;
        Ok(Self { path: name, config, agent: user_agent.to_owned() })
    }

    /// A server that asks for no credentials; [`Self::at`] says where.
    pub fn without_credentials(user_agent: &str) -> Self {
        let config = Config::new(http::Uri::from_static("http://localhost:8080"));
        Self { path: "none".into(), config, agent: user_agent.to_owned() }
    }

    /// The account of the pod that this process runs in: token and CA as mounted, the server as in the environment.
    pub fn in_cluster(user_agent: &str) -> Result<Self, InClusterError> {
        let config = Config::incluster().map_err(|source| InClusterError(Box::new(source)))?;
        Ok(Self { path: "of the pod".into(), config, agent: user_agent.to_owned() })
    }

    /// The same credentials at another URL.
    #[must_use]
    pub fn at(mut self, server: http::Uri) -> Self {
        self.config.cluster_url = server;
        self
    }

    /// A client with the file's own credentials.
    pub fn client(&self) -> Result<Client, KubeconfigError> {
        let mut config = self.config.clone();
        if let Ok(agent) = HeaderValue::from_str(&self.agent) {
            config.headers.push((USER_AGENT, agent));
        }
        self.connect(config)
    }

    /// Clients that act as service accounts of a namespace, over one set of connections; the file's own credentials
    /// get them their tokens.
    pub fn service_accounts(&self, namespace: &str) -> Result<ServiceAccounts, KubeconfigError> {
        let mut bare = self.config.clone();
        bare.auth_info = AuthInfo::default();
        Ok(ServiceAccounts::new(self.connect(bare)?, self.client()?, namespace, &self.agent))
    }

    fn connect(&self, config: Config) -> Result<Client, KubeconfigError> {
        Client::try_from(config).map_err(|source| {
            let path = self.path.clone();
            // The library's words name a private key, which is well.
            if format!("{source:?}").contains("UnsupportedCertVersion") {
                return KubeconfigError::FirstVersion { path };
            }
            KubeconfigError::Client { path, source: Box::new(source) }
        })
    }
}
