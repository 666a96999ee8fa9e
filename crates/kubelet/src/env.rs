//! A container's environment, command and arguments: pure, from the pod and the objects that it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, ResourceFieldSelector, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::amount;
use crate::pod::PodExt;
use crate::resources;

/// The objects that a pod may take values from, already fetched; `None` is one that does not exist.
#[derive(Default)]
pub struct Sources {
    /// ConfigMaps of the pod's namespace by name.
    pub config_maps: HashMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: HashMap<String, Option<Arc<Secret>>>,
    /// Services of the pod's namespace and `default/kubernetes`.
    pub services: Vec<Arc<Service>>,
    /// What the node can give to pods, for unset limits.
    pub allocatable: BTreeMap<String, Quantity>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
}

/// Why an environment cannot be made; upstream's words, shown as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A required object is missing.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A required key is missing.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field path that pods do not have.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A resource that containers do not have.
    #[error("unsupported container resource : {0}")]
    Resource(String),
}

/// Names of ConfigMaps and Secrets that a pod's environment refers to.
pub fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for (_, container) in pod.containers() {
        for from in container.env_from.iter().flatten() {
            config_maps.extend(from.config_map_ref.as_ref().map(|source| source.name.clone()));
            secrets.extend(from.secret_ref.as_ref().map(|source| source.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            config_maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
            secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
        }
    }
    (config_maps, secrets)
}

/// Replaces `$(NAME)` of known names; unknown ones stay as they are and `$$` is a dollar sign.
pub fn expand(text: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(name) =
            rest.strip_prefix('(').and_then(|inner| inner.find(')').map(|end| &inner[..end]))
        {
            match known(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = &rest[name.len() + 2..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables of a container in order, later ones replacing earlier ones of the same name.
pub fn variables(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, Error> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match out.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => out.push((name, value)),
    };
    let services = service_variables(pod, &sources.services);
    let mut known: HashMap<String, String> = HashMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in all_of(from, sources)? {
            let name = format!("{prefix}{key}");
            known.insert(name.clone(), value.clone());
            set(name, value);
        }
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            None => {
                let lookup = |name: &str| {
                    known.get(name).cloned().or_else(|| {
                        services.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
                    })
                };
                expand(var.value.as_deref().unwrap_or_default(), lookup)
            }
            Some(source) => match value_of(pod, container, source, sources)? {
                Some(value) => value,
                None => continue,
            },
        };
        known.insert(var.name.clone(), value.clone());
        set(var.name.clone(), value);
    }
    for (name, value) in services {
        if !known.contains_key(&name) {
            set(name, value);
        }
    }
    Ok(out)
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

type FromSource = k8s_openapi::api::core::v1::EnvFromSource;

fn all_of(from: &FromSource, sources: &Sources) -> Result<Vec<(String, String)>, Error> {
    if let Some(source) = &from.config_map_ref {
        return match sources.config_maps.get(&source.name).cloned().flatten() {
            Some(map) => {
                Ok(map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            None if source.optional == Some(true) => Ok(Vec::new()),
            None => Err(Error::Missing { kind: "configmap", name: source.name.clone() }),
        };
    }
    if let Some(source) = &from.secret_ref {
        return match sources.secrets.get(&source.name).cloned().flatten() {
            Some(secret) => {
                Ok(secret.data.iter().flatten().map(|(key, value)| (key.clone(), utf8(&value.0))).collect())
            }
            None if source.optional == Some(true) => Ok(Vec::new()),
            None => Err(Error::Missing { kind: "secret", name: source.name.clone() }),
        };
    }
    Ok(Vec::new())
}

fn value_of(
    pod: &Pod,
    container: &Container,
    source: &k8s_openapi::api::core::v1::EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, Error> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, sources).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(pod, container, field, sources).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = sources.config_maps.get(&key.name).cloned().flatten() else {
            return if optional {
                Ok(None)
            } else {
                Err(Error::Missing { kind: "configmap", name: key.name.clone() })
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(missing_key(pod, "ConfigMap", &key.name, &key.key)),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = sources.secrets.get(&key.name).cloned().flatten() else {
            return if optional {
                Ok(None)
            } else {
                Err(Error::Missing { kind: "secret", name: key.name.clone() })
            };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(utf8(&value.0))),
            None if optional => Ok(None),
            None => Err(missing_key(pod, "Secret", &key.name, &key.key)),
        };
    }
    Ok(None)
}

fn missing_key(pod: &Pod, kind: &'static str, name: &str, key: &str) -> Error {
    Error::MissingKey {
        kind,
        namespace: pod.namespace().to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    }
}

/// The value of a downward API field.
pub fn field_value(pod: &Pod, path: &str, sources: &Sources) -> Result<String, Error> {
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    let pick = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some(key) = subscript("metadata.labels") {
        return Ok(pick(&pod.metadata.labels, key));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(pick(&pod.metadata.annotations, key));
    }
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => pod.spec().node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => sources.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => sources.host_ips.join(","),
        "status.podIP" => sources.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => sources.pod_ips.join(","),
        other => return Err(Error::Field(other.to_owned())),
    })
}

/// Labels or annotations one a line, values quoted as Go quotes strings.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", control as u32))
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

/// The value of a container's request or limit, in units of the divisor, rounded up.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
    sources: &Sources,
) -> Result<String, Error> {
    let named =
        field.container_name.as_deref().and_then(|name| pod.container(name)).map(|(_, container)| container);
    let container = named.unwrap_or(container);
    let unsupported = || Error::Resource(field.resource.clone());
    let (which, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let cpu = resource == "cpu";
    let known =
        matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
    if !known || !matches!(which, "limits" | "requests") {
        return Err(unsupported());
    }
    let of = |quantity: &Quantity| if cpu { amount::milli(quantity) } else { amount::value(quantity) };
    let own =
        container.resources.as_ref().and_then(|list| resources::amount_of(list, which == "limits", resource));
    let amount = match (which, own) {
        ("limits", None | Some(0)) => sources.allocatable.get(resource).and_then(of).unwrap_or(0),
        (_, own) => own.unwrap_or(0),
    };
    let one = if cpu { 1000 } else { 1 };
    let divisor = field.divisor.as_ref().and_then(of).filter(|divisor| *divisor > 0).unwrap_or(one);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

fn env_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The variables by which containers find services: `kubernetes` always, those of the namespace unless turned off.
fn service_variables(pod: &Pod, services: &[Arc<Service>]) -> Vec<(String, String)> {
    let links = pod.spec().enable_service_links != Some(false);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = namespace == "default" && name == "kubernetes";
        let own = links && namespace == pod.namespace();
        if own || (master && !chosen.contains_key(name)) {
            chosen.insert(name, service);
        }
    }
    let mut out = Vec::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) else { continue };
        let prefix = env_name(name);
        let address = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        out.push((format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string()));
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                out.push((format!("{prefix}_SERVICE_PORT_{}", env_name(port_name)), port.port.to_string()));
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{address}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.push((format!("{prefix}_PORT"), url.clone()));
            }
            let one = format!("{prefix}_PORT_{}_{protocol}", port.port);
            out.push((one.clone(), url));
            out.push((format!("{one}_PROTO"), protocol.to_lowercase()));
            out.push((format!("{one}_PORT"), port.port.to_string()));
            out.push((format!("{one}_ADDR"), ip.to_owned()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_expand(input: &str, expect: &str) {
        let known = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand(input, known), expect, "{input}");
    }

    #[test]
    fn expands_as_upstream_documents() {
        check_expand("x$(A)y", "x1y");
        check_expand("$(B)", "$(B)");
        check_expand("$$(A)", "$(A)");
        check_expand("$$$$(A)", "$$(A)");
        check_expand("$(A", "$(A");
        check_expand("$A $", "$A $");
        check_expand("$()", "$()");
    }

    fn case(env: serde_json::Value) -> Result<Vec<(String, String)>, Error> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"l": "v"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "env": env,
                "resources": {"limits": {"cpu": "250m"}}}]},
        }))
        .expect("pod");
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "from map"}})).expect("map");
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "my-svc", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80, "name": "web"}]}}))
            .expect("service");
        let sources = Sources {
            config_maps: HashMap::from([("m".to_owned(), Some(Arc::new(map)))]),
            services: vec![Arc::new(service)],
            allocatable: BTreeMap::from([("memory".to_owned(), Quantity("2Gi".into()))]),
            pod_ips: vec!["10.1.0.2".into()],
            ..Default::default()
        };
        variables(&pod, &pod.spec().containers[0], &sources)
    }

    fn value(env: serde_json::Value, name: &str) -> Option<String> {
        case(env).expect("variables").into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    #[test]
    fn takes_values_from_everywhere() {
        let field = |path: &str| json!([{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]);
        assert_eq!(value(field("metadata.labels['l']"), "X").as_deref(), Some("v"));
        assert_eq!(value(field("status.podIP"), "X").as_deref(), Some("10.1.0.2"));
        assert_eq!(value(field("spec.nodeName"), "X").as_deref(), Some("node"));
        let resource = |name: &str, divisor: &str| json!([{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": name, "divisor": divisor}}}]);
        assert_eq!(value(resource("limits.cpu", "1"), "X").as_deref(), Some("1"));
        assert_eq!(value(resource("limits.cpu", "1m"), "X").as_deref(), Some("250"));
        assert_eq!(value(resource("limits.memory", "1Mi"), "X").as_deref(), Some("2048"));
        let key = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
        assert_eq!(value(key, "X").as_deref(), Some("from map"));
        let chain =
            json!([{"name": "A", "value": "1"}, {"name": "X", "value": "$(A)$(MY_SVC_SERVICE_PORT_WEB)"}]);
        assert_eq!(value(chain, "X").as_deref(), Some("180"));
        assert_eq!(value(json!([]), "MY_SVC_PORT_80_TCP").as_deref(), Some("tcp://10.0.0.9:80"));
    }

    #[test]
    fn says_what_is_missing_in_upstreams_words() {
        let key = |name: &str, key: &str, optional: bool| json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": name, "key": key, "optional": optional}}}]);
        let words = |env| case(env).expect_err("missing").to_string();
        assert_eq!(words(key("no", "k", false)), "configmap \"no\" not found");
        assert_eq!(words(key("m", "z", false)), "couldn't find key z in ConfigMap n/m");
        assert_eq!(value(key("no", "k", true), "X"), None);
    }

    #[test]
    fn quotes_like_go() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\n""#);
    }
}
