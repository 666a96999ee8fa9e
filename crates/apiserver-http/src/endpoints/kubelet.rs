//! What the kubelet answers: logs, exec, attach, port-forward, and the proxies to nodes and pods. Upstream:
//! pkg/registry/core/pod/strategy.go (`LogLocation`, `streamLocation`) and pkg/registry/core/node/strategy.go, 1.36.
use apiserver_admission::Operation;
use apiserver_registry::encode;
use async_trait::async_trait;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use machinery::gvk::GroupVersionKind;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use streaming::Limits;
use streaming::dial::Dialer;
use streaming::proxy::{self, ProxyOptions};

use crate::body::Body;
use crate::context::{Context, Endpoint};
use crate::query::Query;

/// What a path segment may not hold as it is.
const SEGMENT: &AsciiSet = &CONTROLS.add(b' ').add(b'/').add(b'?').add(b'#').add(b'%');

/// How the server reaches kubelets.
#[derive(Clone)]
pub struct KubeletAccess {
    /// Client certificate and the CA of kubelets.
    pub dialer: Dialer,
    /// Types of node addresses, best first (`--kubelet-preferred-address-types`).
    pub address_types: Vec<String>,
    /// Bounds of streams.
    pub limits: Limits,
}

impl KubeletAccess {
    /// `https://address:port` of a node's kubelet.
    async fn base(&self, context: &Context, node: &str) -> StatusResult<String> {
        let nodes = context.server.registry.store("", "nodes").ok_or_else(StatusError::no_such_path)?;
        let found = nodes.get("", node, None).await?;
        let node = encode::decode(&found.value, found.revision)?;
        let addresses = node.list_at(&["status", "addresses"]);
        let address = self
            .address_types
            .iter()
            .find_map(|wanted| addresses.iter().find(|a| a["type"] == wanted.as_str()))
            .and_then(|a| a["address"].as_str())
            .ok_or_else(|| {
                StatusError::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
            })?;
        let port = node.i64_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).unwrap_or(10250);
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        Ok(format!("https://{host}:{port}"))
    }

    /// Forwards to a kubelet, with our certificate.
    async fn forward(
        &self,
        request: Request<Body>,
        target: &str,
        prefix: Option<String>,
    ) -> StatusResult<Response<Body>> {
        self.forward_by(&self.dialer, request, target, prefix).await
    }

    async fn forward_by(
        &self,
        dialer: &Dialer,
        request: Request<Body>,
        target: &str,
        prefix: Option<String>,
    ) -> StatusResult<Response<Body>> {
        let uri: Uri = target.parse().map_err(|e| StatusError::bad_request(format!("{target}: {e}")))?;
        let options = ProxyOptions { client: None, path_prefix: prefix };
        match proxy::forward(request, &uri, dialer, &options, &self.limits).await {
            Ok(response) => Ok(response.map(|body| body.boxed_unsync())),
            Err(e) => Ok(e.into_response().map(|body| body.boxed_unsync())),
        }
    }
}

async fn pod(context: &Context) -> StatusResult<Object> {
    let pods = context.server.registry.store("", "pods").ok_or_else(StatusError::no_such_path)?;
    let found = pods.get(&context.info.namespace, &context.info.name, None).await?;
    encode::decode(&found.value, found.revision)
}

fn names<'a>(pod: &'a Object, list: &'a str) -> Vec<&'a str> {
    pod.list_at(&["spec", list]).iter().filter_map(|c| c["name"].as_str()).collect()
}

/// The container that a request means.
fn container(pod: &Object, asked: &str) -> StatusResult<String> {
    let (regular, init, ephemeral) =
        (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    if asked.is_empty() {
        if let [only] = regular.as_slice() {
            return Ok((*only).to_owned());
        }
        let mut why = format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            regular.join(" ")
        );
        if !init.is_empty() {
            why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
        if !ephemeral.is_empty() {
            why.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
        }
        return Err(StatusError::bad_request(why));
    }
    if regular.iter().chain(&init).chain(&ephemeral).any(|name| *name == asked) {
        return Ok(asked.to_owned());
    }
    Err(StatusError::bad_request(format!("container {asked} is not valid for pod {}", pod.name())))
}

fn append(query: &mut String, key: &str, value: &str) {
    query.push(if query.is_empty() { '?' } else { '&' });
    query.push_str(key);
    query.push('=');
    query.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
}

/// Serves `pods/log`.
pub struct PodLog(pub KubeletAccess);

/// The query of `/containerLogs` from that of `pods/log`.
fn log_query(query: &Query<'_>) -> StatusResult<String> {
    let mut out = String::new();
    let mut errors = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            append(&mut out, flag, "true");
        }
    }
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(n) = query.integer(name)? {
            if n < least {
                let why = format!("must be greater than or equal to {least}");
                errors.push(FieldError::invalid(&FieldPath::new(name), n, why));
            }
            append(&mut out, name, &n.to_string());
        }
    }
    for text in ["sinceTime", "stream"] {
        if query.has(text) {
            append(&mut out, text, query.get(text));
        }
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&FieldPath::root(), why));
    }
    if errors.is_empty() {
        return Ok(out);
    }
    Err(StatusError::invalid(&GroupVersionKind::new("", "v1", "PodLogOptions"), "", &errors))
}

#[async_trait]
impl Endpoint for PodLog {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        let query = context.query();
        let pod = pod(context).await?;
        let container = container(&pod, query.get("container"))?;
        let options = log_query(&query)?;
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            // Nothing ran yet, so there is nothing to show.
            return Ok(crate::respond::bytes(StatusCode::OK, "text/plain", ""));
        }
        let base = self.0.base(context, node).await?;
        let path = format!("/containerLogs/{}/{}/{container}", context.info.namespace, pod.name());
        let response = self.0.forward(request, &format!("{base}{path}{options}"), None).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(&pod, response).await)
    }
}

/// The kubelet's plain-text refusal as a `Status`.
async fn refused(pod: &Object, response: Response<Body>) -> StatusError {
    let code = response.status().as_u16();
    let text = match crate::body::read(response.into_body()).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(e) => e.to_string(),
    };
    // Our own answer when the kubelet cannot be reached is a Status already.
    let text = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|v| v["message"].as_str().map(str::to_owned))
        .unwrap_or(text);
    match code {
        400 => StatusError::bad_request(text),
        404 => StatusError::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {}): {text}", pod.name()),
        ),
        _ => StatusError::internal(text),
    }
}

/// Which stream a subresource opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// `pods/exec`.
    Exec,
    /// `pods/attach`.
    Attach,
    /// `pods/portforward`.
    PortForward,
}

/// Serves `pods/exec`, `pods/attach` and `pods/portforward`.
pub struct PodStream(pub KubeletAccess, pub StreamKind);

impl PodStream {
    fn path_and_query(&self, pod: &Object, query: &Query<'_>) -> StatusResult<String> {
        let (namespace, name) = (pod.namespace(), pod.name());
        let mut out = String::new();
        if self.1 == StreamKind::PortForward {
            for port in query.all("ports") {
                for port in port.split(',').filter(|p| !p.is_empty()) {
                    append(&mut out, "port", port);
                }
            }
            return Ok(format!("/portForward/{namespace}/{name}{out}"));
        }
        let container = container(pod, query.get("container"))?;
        let flag = |name: &str, default: bool| if query.has(name) { query.flag(name) } else { default };
        for (ours, kubelets, default) in [
            ("stdin", "input", false),
            ("stdout", "output", false),
            ("stderr", "error", false),
            ("tty", "tty", false),
        ] {
            if flag(ours, default) {
                append(&mut out, kubelets, "1");
            }
        }
        if self.1 == StreamKind::Attach {
            return Ok(format!("/attach/{namespace}/{name}/{container}{out}"));
        }
        let mut any = false;
        for word in query.all("command") {
            any = true;
            append(&mut out, "command", word);
        }
        if !any {
            return Err(StatusError::bad_request("you must specify at least 1 command for the container"));
        }
        Ok(format!("/exec/{namespace}/{name}/{container}{out}"))
    }

    fn options_kind(&self) -> &'static str {
        match self.1 {
            StreamKind::Exec => "PodExecOptions",
            StreamKind::Attach => "PodAttachOptions",
            StreamKind::PortForward => "PodPortForwardOptions",
        }
    }
}

#[async_trait]
impl Endpoint for PodStream {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        // Opening a stream changes what runs, so reading rights do not do, even where it begins with GET
        // (AuthorizePodWebsocketUpgradeCreatePermission, on since 1.35).
        if context.info.verb == "get" {
            let info = machinery::request::RequestInfo { verb: "create".into(), ..context.info.clone() };
            context.server.authorize(&context.user, &info).await?;
        }
        connect(context, self.options_kind()).await?;
        let query = context.query();
        let pod = pod(context).await?;
        let path = self.path_and_query(&pod, &query)?;
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            return Err(StatusError::bad_request(format!(
                "pod {} does not have a host assigned",
                pod.name()
            )));
        }
        let base = self.0.base(context, node).await?;
        self.0.forward(request, &format!("{base}{path}"), None).await
    }
}

/// Runs `CONNECT` admission.
async fn connect(context: &Context, kind: &str) -> StatusResult<()> {
    let gvk = GroupVersionKind::new("", "v1", kind);
    let mut options = Object::default();
    options.set_type("v1", kind);
    let query = context.query();
    for field in ["container", "path"] {
        if query.has(field) {
            options.set(&[field], query.get(field));
        }
    }
    for field in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(field) {
            options.set(&[field], true);
        }
    }
    let command: Vec<serde_json::Value> = query.all("command").map(Into::into).collect();
    if !command.is_empty() {
        options.set(&["command"], command);
    }
    context.admit(Operation::Connect, &gvk, &mut options, false).await
}

/// Serves `nodes/proxy`, `pods/proxy` and `services/proxy`.
pub struct NodeProxy(pub KubeletAccess);

/// `scheme:name:port`, all but the name optional.
fn split(text: &str) -> StatusResult<(&str, &str, &str)> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => Ok(("", name, "")),
        [name, port] => Ok(("", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => Ok((scheme, name, port)),
        _ => Err(StatusError::bad_request(format!("invalid proxy request {text:?}"))),
    }
}

impl NodeProxy {
    async fn target(&self, context: &Context) -> StatusResult<String> {
        let (scheme, name, port) = split(&context.info.name)?;
        let scheme = if scheme.is_empty() { "http" } else { scheme };
        let registry = &context.server.registry;
        match &*context.kind.plural {
            "nodes" => {
                let base = self.0.base(context, name).await?;
                if port.is_empty() || base.ends_with(&format!(":{port}")) {
                    return Ok(base);
                }
                let host = base.trim_start_matches("https://");
                let host = host.rsplit_once(':').map_or(host, |(h, _)| h);
                Ok(format!("{scheme}://{host}:{port}"))
            }
            "pods" => {
                let pods = registry.store("", "pods").ok_or_else(StatusError::no_such_path)?;
                let found = pods.get(&context.info.namespace, name, None).await?;
                let pod = encode::decode(&found.value, found.revision)?;
                let ip = pod.str_at(&["status", "podIP"]);
                if ip.is_empty() {
                    return Err(StatusError::bad_request("address not allowed"));
                }
                let first = pod
                    .list_at(&["spec", "containers"])
                    .iter()
                    .filter_map(|c| c["ports"].as_array())
                    .flatten()
                    .find_map(|p| p["containerPort"].as_i64());
                let port = if port.is_empty() { first.unwrap_or(80).to_string() } else { port.to_owned() };
                Ok(format!("{scheme}://{}:{port}", bracketed(ip)))
            }
            _ => service_target(context, scheme, name, port).await,
        }
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// A ready endpoint of a service (pkg/registry/core/service/storage/storage.go, `ResourceLocation`).
async fn service_target(context: &Context, scheme: &str, name: &str, port: &str) -> StatusResult<String> {
    let registry = &context.server.registry;
    let namespace = &context.info.namespace;
    let services = registry.store("", "services").ok_or_else(StatusError::no_such_path)?;
    let found = services.get(namespace, name, None).await?;
    let service = encode::decode(&found.value, found.revision)?;
    let ports = service.list_at(&["spec", "ports"]);
    let wanted = if port.is_empty() {
        match ports {
            [only] => Some(only),
            _ => None,
        }
    } else {
        ports.iter().find(|p| p["name"] == port || p["port"].as_i64().is_some_and(|n| n.to_string() == port))
    };
    let unavailable = |why: String| Err(StatusError::service_unavailable(why));
    let Some(wanted) = wanted else {
        return unavailable(format!("no service port {port:?} found for service {name:?}"));
    };
    let port_name = wanted["name"].as_str().unwrap_or("");
    let slices =
        registry.store("discovery.k8s.io", "endpointslices").ok_or_else(StatusError::no_such_path)?;
    let page = slices.list(namespace, &Default::default()).await?;
    for item in
        page.items.into_vec().iter().filter(|s| s.facts.label("kubernetes.io/service-name") == Some(name))
    {
        let slice = encode::decode(&item.value, item.revision)?;
        let port = slice
            .list_at(&["ports"])
            .iter()
            .find(|p| p["name"].as_str().unwrap_or("") == port_name)
            .and_then(|p| p["port"].as_i64());
        let ready = slice
            .list_at(&["endpoints"])
            .iter()
            .find(|e| e["conditions"]["ready"] != false)
            .and_then(|e| e["addresses"][0].as_str().map(str::to_owned));
        if let (Some(port), Some(ip)) = (port, ready) {
            return Ok(format!("{scheme}://{}:{port}", bracketed(&ip)));
        }
    }
    unavailable(format!("no endpoints available for service {name:?}"))
}

#[async_trait]
impl Endpoint for NodeProxy {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        connect(context, "NodeProxyOptions").await?;
        let base = self.target(context).await?;
        let path = utf8_percent_encode(&context.info.rest, SEGMENT).to_string().replace("%2F", "/");
        let trailing = if context.info.path.ends_with('/') && !path.is_empty() { "/" } else { "" };
        let query = if context.query.is_empty() { String::new() } else { format!("?{}", context.query) };
        let own = context.info.path.strip_suffix(&context.info.rest).unwrap_or(&context.info.path);
        let prefix = own.trim_end_matches('/').to_owned();
        let target = format!("{base}/{path}{trailing}{query}");
        // Only a kubelet may see the server's own certificate, and only its certificate can be judged.
        if context.kind.plural == "nodes" && base.starts_with("https://") && !context.info.name.contains(':')
        {
            return self.0.forward(request, &target, Some(prefix)).await;
        }
        self.0.forward_by(&Dialer::unverified(), request, &target, Some(prefix)).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Object {
        Object::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_container_must_be_clear() {
        assert_eq!(container(&pod(), "i").unwrap(), "i");
        assert!(container(&pod(), "x").is_err());
        let e = container(&pod(), "").unwrap_err();
        assert!(e.to_string().contains("choose one of: [a b] or one of the init containers: [i]"), "{e}");
    }

    #[test]
    fn exec_speaks_the_kubelets_parameters() {
        let access =
            KubeletAccess { dialer: Dialer::plain(), address_types: vec![], limits: Limits::default() };
        let exec = PodStream(access, StreamKind::Exec);
        let query = Query::parse("container=a&command=ls&command=-l+%2F&stdout=true&tty=true&stdin=false");
        assert_eq!(
            exec.path_and_query(&pod(), &query).unwrap(),
            "/exec/n/p/a?output=1&tty=1&command=ls&command=%2Dl%20%2F"
        );
    }

    #[test]
    fn log_options_are_checked() {
        assert_eq!(log_query(&Query::parse("follow=true&tailLines=3")).unwrap(), "?follow=true&tailLines=3");
        assert_eq!(log_query(&Query::parse("tailLines=-1")).unwrap_err().code(), 422);
    }
}
