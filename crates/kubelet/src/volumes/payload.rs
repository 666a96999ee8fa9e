//! What the files of a configMap, secret, downwardAPI or projected volume are: pure, but for asking for tokens.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret,
    SecretVolumeSource,
};

use super::atomic::{File, Files};
use crate::env::{self, Sources};
use crate::pod::PodExt;

const DEFAULT_MODE: i32 = 0o644;

fn mode(bits: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(bits.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o7777
}

fn select<'a>(
    all: impl Iterator<Item = (&'a String, &'a [u8])> + Clone,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
    kind: &str,
) -> Result<Files, String> {
    let file = |data: &[u8], bits| File { data: data.to_vec(), mode: mode(bits, default), owner: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(all.map(|(key, data)| (PathBuf::from(key), file(data, None))).collect());
    };
    let mut out = Files::new();
    for item in items {
        match all.clone().find(|(key, _)| **key == item.key) {
            Some((_, data)) => {
                out.insert(PathBuf::from(&item.path), file(data, item.mode));
            }
            None if optional => {}
            None => return Err(format!("references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(out)
}

/// Files of a ConfigMap's keys.
pub fn config_map(
    map: &ConfigMap,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
) -> Result<Files, String> {
    let text = map.data.iter().flatten().map(|(key, value)| (key, value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    let all: Vec<_> = text.chain(binary).collect();
    select(all.iter().copied(), items, default, optional, "config")
}

/// Files of a Secret's keys.
pub fn secret(
    secret: &Secret,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
) -> Result<Files, String> {
    let all: Vec<_> = secret.data.iter().flatten().map(|(key, value)| (key, value.0.as_slice())).collect();
    select(all.iter().copied(), items, default, optional, "secret")
}

/// Files of downward API items.
pub fn downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default: Option<i32>,
    sources: &Sources,
) -> Result<Files, String> {
    let none = Container::default();
    let mut out = Files::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => env::field_value(pod, &field.field_path, sources),
            (None, Some(field)) => env::resource_value(pod, &none, field, sources),
            (None, None) => continue,
        };
        let data = value.map_err(|error| error.to_string())?.into_bytes();
        out.insert(PathBuf::from(&item.path), File { data, mode: mode(item.mode, default), owner: None });
    }
    Ok(out)
}

/// What a volume needs from the API before its files are known.
pub fn missing(kind: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

/// The user that owns token files: the one that all containers run as, if it is the same.
pub fn token_owner(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec().security_context.as_ref().and_then(|security| security.run_as_user);
    let mut users = pod.containers().into_iter().map(|(_, container)| {
        container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// Permission bits of a token file: readable by its owner alone where the owner is known.
pub fn token_mode(pod: &Pod, default: Option<i32>) -> u32 {
    let group = pod.spec().security_context.as_ref().and_then(|security| security.fs_group);
    if group.is_some() || token_owner(pod).is_some() { 0o600 } else { mode(None, default) }
}

/// The ConfigMap's volume source as the general form.
pub fn config_map_source(
    source: &ConfigMapVolumeSource,
) -> (&str, Option<&Vec<KeyToPath>>, Option<i32>, bool) {
    (&source.name, source.items.as_ref(), source.default_mode, source.optional == Some(true))
}

/// The Secret's volume source as the general form.
pub fn secret_source(source: &SecretVolumeSource) -> (&str, Option<&Vec<KeyToPath>>, Option<i32>, bool) {
    (
        source.secret_name.as_deref().unwrap_or_default(),
        source.items.as_ref(),
        source.default_mode,
        source.optional == Some(true),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn keys_are_chosen_and_named_by_items() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("map");
        let items = vec![KeyToPath { key: "a".into(), path: "x/y".into(), mode: Some(0o400) }];
        let chosen = config_map(&map, Some(&items), None, false).expect("files");
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[Path::new("x/y")].mode, 0o400);
        assert_eq!(config_map(&map, None, Some(0o440), false).expect("all")[Path::new("b")].mode, 0o440);
        let absent = vec![KeyToPath { key: "z".into(), path: "z".into(), mode: None }];
        assert_eq!(
            config_map(&map, Some(&absent), None, false),
            Err("references non-existent config key: z".into())
        );
        assert!(config_map(&map, Some(&absent), None, true).expect("optional").is_empty());
    }

    #[test]
    fn tokens_belong_to_the_user_that_all_containers_share() {
        let pod = |users: [Option<i64>; 2]| -> Pod {
            let container = |user: Option<i64>| json!({"name": "c", "securityContext": {"runAsUser": user}});
            serde_json::from_value(json!({"spec": {"containers": users.map(container)}})).expect("pod")
        };
        assert_eq!(token_owner(&pod([Some(5), Some(5)])), Some(5));
        assert_eq!(token_owner(&pod([Some(5), Some(6)])), None);
        assert_eq!(token_owner(&pod([None, None])), None);
        assert_eq!(token_mode(&pod([Some(5), Some(5)]), None), 0o600);
        assert_eq!(token_mode(&pod([None, None]), None), 0o644);
    }
}
