//! Creates and deletes pods for workload controllers: with events, expectations, and care when it goes wrong.
use client::{EventType, ObjectKey, Recorder, reference};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};

use crate::expectations::Expectations;
use crate::framework::{Error, code, is_namespace_terminating, message};

/// Writes pods in the name of one controller.
pub struct PodWriter {
    client: Client,
    recorder: Recorder,
    /// What its cache has not shown yet.
    pub expectations: Expectations,
}

impl PodWriter {
    /// `recorder` carries the controller's name.
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, expectations: Expectations::default() }
    }

    /// Creates pods in batches of 1, 2, 4, ..., so that a quota or a broken template costs one failure and not
    /// hundreds. Stops after the first batch with a failure; returns how many were made and that failure.
    pub async fn create<O>(&self, owner: &O, pods: Vec<Pod>) -> (usize, Option<kube::Error>)
    where
        O: Resource<DynamicType = ()>,
    {
        let key = ObjectKey::of(owner);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let about = reference(owner);
        let params = PostParams::default();
        let mut made = 0;
        let mut failure = None;
        for batch in batches(&pods) {
            let results = join_all(batch.iter().map(|pod| api.create(&params, pod))).await;
            for result in results {
                match result {
                    Ok(pod) => {
                        made += 1;
                        self.expectations.written(&key, &pod);
                        let name = pod.metadata.name.unwrap_or_default();
                        tracing::debug!(pod = name, "pod created");
                        self.recorder.event(
                            &about,
                            EventType::Normal,
                            "SuccessfulCreate",
                            format!("Created pod: {name}"),
                        );
                    }
                    Err(error) => {
                        // Nobody will miss it, and the event would be refused too.
                        if !is_namespace_terminating(&error) {
                            let text = format!("Error creating: {}", message(&error));
                            self.recorder.event(&about, EventType::Warning, "FailedCreate", text);
                        }
                        failure = failure.or(Some(error));
                    }
                }
            }
            if failure.is_some() {
                break;
            }
        }
        (made, failure)
    }

    /// Deletes pods, each with its UID as precondition. Returns the first failure.
    pub async fn delete<O>(&self, owner: &O, pods: &[&Pod]) -> Result<(), kube::Error>
    where
        O: Resource<DynamicType = ()>,
    {
        let results = join_all(pods.iter().map(|pod| self.delete_one(owner, pod))).await;
        results.into_iter().collect()
    }

    async fn delete_one<O>(&self, owner: &O, pod: &Pod) -> Result<(), kube::Error>
    where
        O: Resource<DynamicType = ()>,
    {
        let key = ObjectKey::of(owner);
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let about = reference(owner);
        match api.delete(name, &DeleteParams::default().preconditions(same)).await {
            Ok(_) => {
                self.expectations.deleted(&key, pod);
                tracing::debug!(pod = name, "pod deleted");
                self.recorder.event(
                    &about,
                    EventType::Normal,
                    "SuccessfulDelete",
                    format!("Deleted pod: {name}"),
                );
                Ok(())
            }
            // Gone, or another pod of that name.
            Err(error) if matches!(code(&error), 404 | 409) => Ok(()),
            Err(error) => {
                let text = format!("Error deleting: {}", message(&error));
                self.recorder.event(&about, EventType::Warning, "FailedDelete", text);
                Err(error)
            }
        }
    }
}

/// For `map_err` after a failed creation: a refusal because the namespace goes away is no failure.
pub fn creation(failure: Option<kube::Error>) -> Result<(), Error> {
    match failure {
        Some(error) if !is_namespace_terminating(&error) => Err(Error::at("create a pod")(error)),
        _ => Ok(()),
    }
}

fn batches<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    let mut size = 1;
    std::iter::from_fn(move || {
        if items.is_empty() {
            return None;
        }
        let (batch, rest) = items.split_at(size.min(items.len()));
        items = rest;
        size *= 2;
        Some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_double() {
        let sizes = |n: usize| batches(&vec![(); n]).map(<[()]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(0), [0; 0]);
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(10), [1, 2, 4, 3]);
    }
}
