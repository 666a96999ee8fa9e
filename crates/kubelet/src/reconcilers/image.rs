//! Makes sure that a container's image is there, by its pull policy.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use crate::objects::Reader;
use crate::pod::PodExt;
use crate::shared::Shared;
use crate::text::go_duration;

/// Why there is no image: the reason shown in `state.waiting`, and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName` ...
    pub reason: &'static str,
    /// What happened.
    pub message: String,
}

/// `Always` for `:latest` and images without a tag, else `IfNotPresent`, unless the container says.
pub fn policy(container: &Container) -> &str {
    if let Some(policy) = container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()) {
        return policy;
    }
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest") {
        "IfNotPresent"
    } else {
        "Always"
    }
}

fn is_valid_name(image: &str) -> bool {
    let repository = image.split('@').next().unwrap_or_default();
    let tagless = match repository.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => {
            let fits = !tag.is_empty()
                && tag.len() <= 128
                && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            if !fits {
                return false;
            }
            name
        }
        _ => repository,
    };
    let (first, rest) = tagless.split_once('/').unwrap_or(("", tagless));
    // Only the registry's part, before the first slash, may hold capitals or a port.
    let lower = |text: &str| {
        !text.is_empty()
            && text.split('/').all(|part| {
                part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                    && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            })
    };
    lower(rest) && first.chars().all(|c| c.is_ascii_alphanumeric() || ".-:_[]".contains(c))
}

/// The image with the tag that an untagged name means.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// Credentials for one registry out of a `kubernetes.io/dockerconfigjson` secret.
fn credentials(secret: &Secret, image: &str) -> Option<cri::v1::AuthConfig> {
    let data = secret.data.as_ref()?.get(".dockerconfigjson")?;
    let config: serde_json::Value = serde_json::from_slice(&data.0).ok()?;
    let registry = match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    };
    let (_, entry) = config.get("auths")?.as_object()?.iter().find(|(key, _)| {
        let host = key
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .split('/')
            .next()
            .unwrap_or_default();
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    })?;
    let text = |field: &str| entry.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    Some(cri::v1::AuthConfig {
        username: text("username"),
        password: text("password"),
        auth: text("auth"),
        ..Default::default()
    })
}

/// The container's image in the runtime's words, pulled first where the policy says so.
pub async fn ensure(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    reader: &Reader,
) -> Result<String, Failure> {
    let name = container.image.as_deref().unwrap_or_default();
    let about = super::container::reference(pod, &container.name);
    let warn = |reason: &str, message: String| {
        shared.recorder.event(&about, client::EventType::Warning, reason, message)
    };
    let note = |reason: &str, message: String| {
        shared.recorder.event(&about, client::EventType::Normal, reason, message)
    };
    if !is_valid_name(name) {
        let message = format!(
            "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": invalid reference format"
        );
        warn("InspectFailed", message.clone());
        return Err(Failure { reason: "InvalidImageName", message });
    }
    let image = with_tag(name);
    let present = match shared.cri.image_status(&image).await {
        Ok(present) => present,
        Err(error) => {
            let message = format!("Failed to inspect image \"{image}\": {error}");
            warn("InspectFailed", message.clone());
            return Err(Failure { reason: "ImageInspectError", message });
        }
    };
    let policy = policy(container);
    // No registry serves `localhost/...`: such images were built or imported here, so being present is being current.
    let local = name.starts_with("localhost/");
    if let Some(present) = present.as_ref().filter(|_| policy != "Always" || local) {
        note(
            "Pulled",
            format!("Container image \"{name}\" already present on machine and can be accessed by the pod"),
        );
        return Ok(present.id.clone());
    }
    if policy == "Never" {
        let message = format!("Container image \"{name}\" is not present with pull policy of Never");
        warn("ErrImageNeverPull", message.clone());
        return Err(Failure { reason: "ErrImageNeverPull", message });
    }
    note("Pulling", format!("Pulling image \"{name}\""));
    let asked = Instant::now();
    let _permit = shared.pulls.acquire().await;
    let started = Instant::now();
    let mut auths = vec![None];
    for secret in pod.spec().image_pull_secrets.iter().flatten() {
        if let Ok(Some(secret)) = reader.secret(&secret.name).await {
            auths.extend(credentials(&secret, &image).map(Some));
        }
    }
    if auths.len() > 1 {
        auths.remove(0);
    }
    let mut failed = String::new();
    for auth in auths {
        match shared.cri.pull_image(&image, auth, None).await {
            Ok(id) => {
                let size = shared.cri.image_status(&image).await.ok().flatten().map_or(0, |image| image.size);
                note(
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{name}\" in {} ({} including waiting). Image size: {size} bytes.",
                        rounded(started),
                        rounded(asked)
                    ),
                );
                return Ok(id);
            }
            Err(error) => failed = error.to_string(),
        }
    }
    let message = format!("failed to pull image \"{name}\": {failed}");
    warn("Failed", format!("Failed to pull image \"{name}\": {failed}"));
    warn("Failed", "Error: ErrImagePull".into());
    Err(Failure { reason: "ErrImagePull", message })
}

fn rounded(since: Instant) -> String {
    go_duration(std::time::Duration::from_millis(since.elapsed().as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_follow_the_tag() {
        let check = |image: &str, expect: &str| {
            let container = Container { image: Some(image.into()), ..Default::default() };
            assert_eq!(policy(&container), expect, "{image}");
        };
        check("a", "Always");
        check("a:latest", "Always");
        check("a:1", "IfNotPresent");
        check("host:5000/a", "Always");
        check("host:5000/a:2", "IfNotPresent");
        check("a@sha256:0", "IfNotPresent");
    }

    #[test]
    fn names_are_checked_before_the_runtime_sees_them() {
        for good in ["a", "a/b:1", "localhost/cox/pause", "Host.example:5000/a/b:V1", "a@sha256:00"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "A", "a b", "a:", "-a", "a//b", "a:b:c"] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn credentials_are_chosen_by_registry() {
        let json = br#"{"auths":{"https://r.example/v1/":{"username":"u","password":"p"}}}"#;
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(json.to_vec()))].into()),
            ..Default::default()
        };
        assert_eq!(credentials(&secret, "r.example/a:1").map(|auth| auth.username), Some("u".into()));
        assert!(credentials(&secret, "other.example/a:1").is_none());
    }
}
