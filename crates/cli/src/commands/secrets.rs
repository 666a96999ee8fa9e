//! `cox secrets`: has what is sealed in the store sealed anew.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::args::Which;
use crate::cluster::Cluster;
use crate::hosts::HostsCluster;
use crate::output::{Failure, print, print_json};
use crate::parts;

/// `cox secrets`.
#[derive(Subcommand, Clone, Debug)]
pub enum Secrets {
    /// Has every secret written again, so that each is sealed with the key that comes first now.
    Rewrite(Rewrite),
}

/// `cox secrets rewrite`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples, after a new key was put first in the cluster's encryption/config.yaml:\n  \
    cox secrets rewrite                          then the old key can be removed\n  \
    cox secrets rewrite --resource configmaps    when more than secrets is sealed"
)]
pub struct Rewrite {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Asks the cluster of this kubeconfig, rather than one that `cox up` made.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// What to rewrite: PLURAL or PLURAL.GROUP; may be given more than once.
    #[arg(long = "resource", value_name = "RESOURCE", default_value = "secrets")]
    pub resources: Vec<String>,
}

/// Objects of one list.
const PAGE: usize = 500;
/// Writes at a time.
const AT_ONCE: usize = 8;

/// What became of the objects of a resource.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// Were written anew.
    rewritten: u64,
    /// Were as they should be.
    current: u64,
    /// Were written or deleted by somebody else meanwhile.
    changed: u64,
}

impl Count {
    fn add(self, fate: Fate) -> Self {
        match fate {
            Fate::Rewritten => Self { rewritten: self.rewritten + 1, ..self },
            Fate::Current => Self { current: self.current + 1, ..self },
            Fate::Changed => Self { changed: self.changed + 1, ..self },
        }
    }
}

/// What became of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Rewritten,
    Current,
    Changed,
}

/// `cox secrets`.
pub async fn secrets(verb: Secrets, as_json: bool) -> Result<ExitCode, Failure> {
    match verb {
        Secrets::Rewrite(options) => rewrite(options, as_json).await,
    }
}

async fn rewrite(options: Rewrite, as_json: bool) -> Result<ExitCode, Failure> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => path.clone(),
        None => match HostsCluster::kept(&options.which)? {
            Some(cluster) => cluster.admin_kubeconfig(),
            None => Cluster::kept(&options.which)?.admin_kubeconfig(),
        },
    };
    let client = parts::client_of(&kubeconfig, "cox").await?;
    let mut told = Vec::new();
    for resource in &options.resources {
        let failed = |e: kube::Error| {
            Failure::new(
                format!("cannot rewrite {resource}: {}", base::Chain(&e)),
                "what is rewritten already stays so; run it again",
            )
        };
        let count = rewrite_all(&client, resource).await.map_err(failed)?;
        if !as_json {
            print(&format!(
                "{resource}: {} rewritten, {} were current, {} changed meanwhile\n",
                count.rewritten, count.current, count.changed
            ))?;
        }
        told.push(json!({
            "resource": resource,
            "rewritten": count.rewritten,
            "current": count.current,
            "changed": count.changed,
        }));
    }
    if as_json {
        print_json(&json!({ "resources": told }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn get(path: &str) -> Result<Request<Vec<u8>>, kube::Error> {
    Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)
}

/// The path below which a resource is served: `/api/v1`, or that of its group's preferred version.
async fn base_path(client: &Client, group: &str) -> Result<String, kube::Error> {
    if group.is_empty() {
        return Ok("/api/v1".into());
    }
    let found: Value = client.request(get(&format!("/apis/{group}"))?).await?;
    let version = found["preferredVersion"]["groupVersion"].as_str().unwrap_or_default();
    Ok(format!("/apis/{version}"))
}

async fn rewrite_all(client: &Client, resource: &str) -> Result<Count, kube::Error> {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let base = base_path(client, group).await?;
    let mut count = Count::default();
    let mut next = String::new();
    loop {
        let page: Value =
            client.request(get(&format!("{base}/{plural}?limit={PAGE}&continue={next}"))?).await?;
        let kind = page["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
        let version = page["apiVersion"].clone();
        let items = page["items"].as_array().cloned().unwrap_or_default();
        count = futures::stream::iter(items)
            .map(|mut object| {
                object["apiVersion"] = version.clone();
                object["kind"] = kind.as_str().into();
                rewrite_one(client, &base, plural, object)
            })
            .buffer_unordered(AT_ONCE)
            .try_fold(count, |count, fate| async move { Ok(count.add(fate)) })
            .await?;
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if next.is_empty() {
            return Ok(count);
        }
    }
}

/// Writes an object as it was read. The server finds nothing to change but the key it is sealed with.
async fn rewrite_one(client: &Client, base: &str, plural: &str, object: Value) -> Result<Fate, kube::Error> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let path = match text("namespace") {
        "" => format!("{base}/{plural}/{}", text("name")),
        namespace => format!("{base}/namespaces/{namespace}/{plural}/{}", text("name")),
    };
    let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
    let request = Request::put(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)?;
    match client.request::<Value>(request).await {
        Ok(written) if written["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"] => {
            Ok(Fate::Current)
        }
        Ok(_) => Ok(Fate::Rewritten),
        // Whoever wrote it since then wrote it with the key of now; what is deleted needs none.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Fate::Changed),
        Err(e) => Err(e),
    }
}
