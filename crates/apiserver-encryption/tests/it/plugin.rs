//! A key server for tests: it "encrypts" a seed by remembering it.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use apiserver_encryption::kms_v2::key_management_service_server::{
    KeyManagementService, KeyManagementServiceServer,
};
use apiserver_encryption::kms_v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct State {
    /// Name of the present key.
    pub key_id: String,
    /// `healthz` of the answer.
    pub healthz: String,
    /// Seeds by their ciphertext.
    seeds: BTreeMap<Vec<u8>, (String, Vec<u8>)>,
    /// Calls of `Decrypt`.
    pub decrypted: usize,
    /// Calls of `Encrypt`.
    pub encrypted: usize,
}

/// A running key server; it is gone when this is dropped, its state is not.
pub struct Plugin {
    pub socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

struct Service(Arc<Mutex<State>>);

pub fn state() -> Arc<Mutex<State>> {
    Arc::new(Mutex::new(State { key_id: "1".into(), healthz: "ok".into(), ..State::default() }))
}

pub fn start(dir: &Path, state: &Arc<Mutex<State>>) -> Plugin {
    let socket = dir.join("kms.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let service = KeyManagementServiceServer::new(Service(state.clone()));
    let task = tokio::spawn(async move {
        // Connections end with this task.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let server = http2::Builder::new(TokioExecutor::new());
            connections.spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    Plugin { socket, task }
}

fn annotations(key_id: &str) -> BTreeMap<String, Vec<u8>> {
    [("version.encryption.example.com".to_owned(), key_id.as_bytes().to_vec())].into()
}

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let state = self.0.lock().unwrap();
        Ok(Response::new(StatusResponse {
            version: "v2".into(),
            healthz: state.healthz.clone(),
            key_id: state.key_id.clone(),
        }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.encrypted += 1;
        let key_id = state.key_id.clone();
        let ciphertext = format!("seed {}", state.seeds.len()).into_bytes();
        state.seeds.insert(ciphertext.clone(), (key_id.clone(), request.into_inner().plaintext));
        Ok(Response::new(EncryptResponse { ciphertext, annotations: annotations(&key_id), key_id }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        state.decrypted += 1;
        match state.seeds.get(&request.ciphertext) {
            Some((key_id, plaintext))
                if *key_id == request.key_id && annotations(key_id) == request.annotations =>
            {
                Ok(Response::new(DecryptResponse { plaintext: plaintext.clone() }))
            }
            _ => Err(Status::invalid_argument("no such seed")),
        }
    }
}
