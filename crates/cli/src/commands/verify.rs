//! Whether a cluster does what it is for, tried with a small pod on every node: pods run, names are answered, pods and
//! Services are reached across nodes. What does not work is told with the place and the likely cause.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{AttachParams, DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Resource};
use provision::spec::{ClusterSpec, PodNetwork, Role};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use crate::commands::reach::{Question, Unanswered};
use crate::output::Failure;

/// Where the pods run: nobody's namespace has to be made or waited for.
const NAMESPACE: &str = "kube-system";
/// What marks everything that is made here.
const LABEL: &str = "app.kubernetes.io/component=cox-verify";
/// Port of the pods.
const PORT: u16 = 8080;
/// How long what does not answer is asked again: rules are a moment behind the objects that they come from.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that the pod of a node may need.
const START: Duration = Duration::from_secs(60);
/// How many other nodes a pod asks: each of a small cluster.
const MOST: usize = 16;
/// The most that a pod may say.
const MOST_SAID: u64 = 1 << 20;

/// What was seen of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// No pod starts there.
    NoPod(String),
    /// A command cannot be run in its pod.
    NoExec(String),
    /// The nodes whose pods it asked, and what did not answer.
    Asked(BTreeSet<String>, Unanswered),
}

/// What the Service is called among servers; no node can be.
const SERVICE: &str = "the Service";

/// What is wrong, with the likely cause.
fn judge(spec: &ClusterSpec, seen: &BTreeMap<String, Seen>) -> Vec<String> {
    let mut out = Vec::new();
    let at = |node: &str| spec.host(node).map_or_else(String::new, |h| format!(" ({})", h.address));
    let mut pairs: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut whys: BTreeMap<&str, &str> = BTreeMap::new();
    for (node, seen) in seen {
        let (asked, unanswered) = match seen {
            Seen::NoPod(why) => {
                out.push(format!(
                    "no pod starts on node {node}: {why}; `journalctl -u kubelet -u containerd` there tells more"
                ));
                continue;
            }
            Seen::NoExec(why) => {
                out.push(format!(
                    "no command can be run in a pod on node {node}: {why}; is its port 10250{} open to the control planes?",
                    at(node)
                ));
                continue;
            }
            Seen::Asked(asked, unanswered) => (asked, unanswered),
        };
        for (name, why) in &unanswered.names {
            out.push(format!(
                "on node {node} the cluster DNS does not answer for {name}: {why}; see `journalctl -u cox-dns` there; does a \
                 firewall keep pods from port 10053 of the node?"
            ));
        }
        let failed: Vec<&String> =
            asked.iter().filter(|peer| unanswered.servers.contains_key(*peer)).collect();
        for peer in &failed {
            pairs.insert((node, peer));
            whys.insert(peer, &unanswered.servers[*peer]);
        }
        if let Some(why) = unanswered.servers.get(SERVICE)
            && failed.is_empty()
        {
            out.push(format!(
                "a Service is not reached from node {node}, though its pods are: {why}; see `journalctl -u kube-proxy` there"
            ));
        }
    }
    out.extend(unreached(spec, seen, pairs, &whys, &at));
    out
}

/// Whose pods are not reached from where, in as few sentences as tell it.
fn unreached(
    spec: &ClusterSpec,
    seen: &BTreeMap<String, Seen>,
    mut pairs: BTreeSet<(&str, &str)>,
    whys: &BTreeMap<&str, &str>,
    at: &dyn Fn(&str) -> String,
) -> Vec<String> {
    let mut out = Vec::new();
    let why = |node: &str| whys.get(node).copied().unwrap_or_default();
    let own: Vec<&str> = pairs.iter().filter(|(from, to)| from == to).map(|(from, _)| *from).collect();
    for node in &own {
        out.push(format!(
            "pods of node {node} do not even reach each other: {}; does a firewall there drop forwarded packets \
             (`nft list ruleset`, `iptables -S FORWARD`)?",
            why(node)
        ));
        // What follows from that needs no words of its own.
        pairs.retain(|(from, to)| from != node && to != node);
    }
    let between = |a: &str, b: &str| match spec.network.pod_network {
        PodNetwork::Vxlan => format!("is UDP port 8472 let through between {a}{} and {b}{}?", at(a), at(b)),
        PodNetwork::Routes => format!(
            "routes need {a}{} and {b}{} on one link, and nothing there that drops addresses of pods (a cloud's source \
             check, a firewall); `podNetwork: vxlan` does without",
            at(a),
            at(b)
        ),
        PodNetwork::None => "the pod network that you installed sees to that".to_owned(),
    };
    let asked: Vec<(&str, &str)> = seen
        .iter()
        .filter_map(|(from, seen)| match seen {
            Seen::Asked(asked, _) => Some(asked.iter().map(move |to| (from.as_str(), to.as_str()))),
            _ => None,
        })
        .flatten()
        .filter(|(from, to)| from != to)
        .collect();
    for node in seen.keys().map(String::as_str) {
        let from: Vec<(&str, &str)> = asked.iter().filter(|(_, to)| *to == node).copied().collect();
        if from.len() > 1 && from.iter().all(|pair| pairs.contains(pair)) {
            let hint = between(from[0].0, node);
            out.push(format!("pods of node {node} are reached from no other node: {}; {hint}", why(node)));
            pairs.retain(|(from, to)| *from != node && *to != node);
        }
    }
    for (from, to) in &pairs {
        let both = pairs.contains(&(*to, *from));
        if both && from > to {
            continue;
        }
        let what = if both {
            format!("pods of nodes {from} and {to} do not reach each other")
        } else {
            format!("pods of node {to} are not reached from node {from}")
        };
        out.push(format!("{what}: {}; {}", why(to), between(from, to)));
    }
    out
}

fn made<K: DeserializeOwned>(value: Value) -> Result<K, Failure> {
    serde_json::from_value(value).map_err(|e| Failure::of(&e))
}

fn pod(name: &str, run: &str, node: &str) -> Result<Pod, Failure> {
    made(json!({
        "metadata": { "name": name, "labels": labels(run) },
        "spec": {
            "nodeName": node,
            "tolerations": [{ "operator": "Exists" }],
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "hello",
                "image": format!("{}:{}", images::HELLO, images::VERSION),
                "imagePullPolicy": "IfNotPresent",
                "securityContext": {
                    "runAsUser": 65534, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    }))
}

fn labels(run: &str) -> Value {
    let (key, value) = LABEL.split_once('=').unwrap_or_default();
    json!({ key: value, "cox-verify": run })
}

/// Creates an object. A cluster that has just begun may still lack what admission looks for.
async fn create<K>(api: &Api<K>, object: &K, deadline: Instant) -> Result<K, kube::Error>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    loop {
        match api.create(&PostParams::default(), object).await {
            Err(kube::Error::Api(status)) if status.code == 403 && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            result => return result,
        }
    }
}

/// Why a pod does not run.
fn waits_for(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waiting = status
        .and_then(|s| s.container_statuses.as_ref())
        .into_iter()
        .flatten()
        .find_map(|c| c.state.as_ref()?.waiting.as_ref());
    let text =
        |parts: [Option<&String>; 2]| parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
    match waiting {
        Some(waiting) => text([waiting.reason.as_ref(), waiting.message.as_ref()]),
        None => text([status.and_then(|s| s.phase.as_ref()), status.and_then(|s| s.message.as_ref())]),
    }
}

/// The address of a pod that runs.
async fn started(pods: &Api<Pod>, name: &str, deadline: Instant) -> Result<IpAddr, String> {
    let ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|p| p.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let waited =
        tokio::time::timeout_at(deadline, kube::runtime::wait::await_condition(pods.clone(), name, ready));
    match waited.await {
        Ok(Ok(Some(pod))) => {
            let address = pod.status.and_then(|s| s.pod_ip).unwrap_or_default();
            address.parse().map_err(|_| format!("its address is {address:?}"))
        }
        Ok(Ok(None)) => Err("it was deleted".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => match pods.get(name).await {
            Ok(pod) => Err(format!("after {} s it is {}", START.as_secs(), waits_for(&pod))),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Asks from within a pod.
async fn ask(pods: &Api<Pod>, name: &str, question: &Question) -> Result<Unanswered, String> {
    let text = serde_json::to_string(question).map_err(|e| e.to_string())?;
    let params = AttachParams::default().stdin(false).stdout(true).stderr(false);
    let mut process = pods.exec(name, ["/cox", "reach", &text], &params).await.map_err(|e| e.to_string())?;
    let mut said = String::new();
    if let Some(stdout) = process.stdout() {
        stdout.take(MOST_SAID).read_to_string(&mut said).await.map_err(|e| e.to_string())?;
    }
    serde_json::from_str(&said).map_err(|_| format!("it said {:?}", said.trim()))
}

/// What each pod asks: its own node and those behind it, round the end.
fn peers(nodes: &[&str], i: usize) -> BTreeSet<String> {
    nodes.iter().cycle().skip(i).take(nodes.len().min(MOST)).map(|n| (*n).to_owned()).collect()
}

/// Tries everything; what is wrong, or nothing.
async fn try_all(client: &Client, spec: &ClusterSpec, run: &str) -> Result<Vec<String>, Failure> {
    let failed = |what: &str, e: &kube::Error| {
        Failure::new(format!("cannot verify the cluster: cannot make {what}: {}", base::Chain(e)), "")
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let deadline = Instant::now() + START;
    let service = made(json!({
        "metadata": { "name": format!("cox-verify-{run}"), "labels": labels(run) },
        "spec": { "selector": { "cox-verify": run }, "ports": [{ "port": 80, "targetPort": PORT }] },
    }))?;
    let service = create(&services, &service, deadline).await.map_err(|e| failed("a Service", &e))?;
    let service = service.spec.and_then(|s| s.cluster_ip).and_then(|ip| ip.parse::<IpAddr>().ok());

    let nodes: Vec<&str> = spec.hosts_with(Role::Worker).map(|h| h.name.as_str()).collect();
    let name = |i: usize| format!("cox-verify-{run}-{i}");
    let starts = nodes.iter().enumerate().map(|(i, node)| {
        let (pods, name) = (&pods, name(i));
        async move {
            let pod = pod(&name, run, node)?;
            create(pods, &pod, deadline).await.map_err(|e| failed("a pod", &e))?;
            Ok::<_, Failure>(started(pods, &name, deadline).await)
        }
    });
    let started = futures::future::try_join_all(starts).await?;
    let addresses: BTreeMap<&str, SocketAddr> = nodes
        .iter()
        .zip(&started)
        .filter_map(|(node, ip)| Some((*node, SocketAddr::new(*ip.as_ref().ok()?, PORT))))
        .collect();
    let dns = format!("kubernetes.default.svc.{}.", spec.network.domain);
    let kubernetes = u32::from(spec.network.service_cidr.network()).saturating_add(1);
    let asks = nodes.iter().enumerate().zip(started).map(|((i, node), started)| {
        let (pods, name) = (&pods, name(i));
        let asked: BTreeSet<String> =
            peers(&nodes, i).into_iter().filter(|p| addresses.contains_key(p.as_str())).collect();
        let mut servers: BTreeMap<String, SocketAddr> =
            asked.iter().map(|peer| (peer.clone(), addresses[peer.as_str()])).collect();
        servers.extend(service.map(|ip| (SERVICE.to_owned(), SocketAddr::new(ip, 80))));
        let names = [(dns.clone(), IpAddr::V4(kubernetes.into()))].into();
        let question = Question { names, servers, patience_ms: PATIENCE.as_millis() as u64 };
        async move {
            let seen = match started {
                Err(why) => Seen::NoPod(why),
                Ok(_) => match ask(pods, &name, &question).await {
                    Ok(unanswered) => Seen::Asked(asked, unanswered),
                    Err(why) => Seen::NoExec(why),
                },
            };
            ((*node).to_owned(), seen)
        }
    });
    let seen: BTreeMap<String, Seen> = futures::future::join_all(asks).await.into_iter().collect();
    tracing::debug!(?seen, "the cluster was tried");
    Ok(judge(spec, &seen))
}

/// Removes what was made here, now or by one that was interrupted.
async fn clean(client: &Client) -> Result<(), kube::Error> {
    let ours = ListParams::default().labels(LABEL);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    pods.delete_collection(&DeleteParams::default(), &ours).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    for service in services.list(&ours).await? {
        services.delete(&service.metadata.name.unwrap_or_default(), &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Tries the cluster, and leaves nothing of that behind.
pub async fn verify(client: &Client, spec: &ClusterSpec) -> Result<(), Failure> {
    if spec.hosts_with(Role::Worker).next().is_none() {
        return Ok(());
    }
    let run = format!("{:x}", jiff::Timestamp::now().as_millisecond() & 0xff_ffff);
    let wrong = try_all(client, spec, &run).await;
    let cleaned = clean(client).await;
    let wrong = wrong?;
    cleaned.map_err(|e| Failure::of(&e))?;
    let next = "the cluster is up, but does not work yet; `cox up` goes on from here, and tries again";
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(Failure::new(one, next)),
        many => {
            let all: String = many.iter().map(|one| format!("\n  - {one}")).collect();
            Err(Failure::new(format!("{} things do not work{all}", many.len()), next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(network: &str) -> ClusterSpec {
        let text = format!(
            "name: c\nnetwork: {{podNetwork: {network}}}\nhosts:\n\
             - {{name: a, address: 192.0.2.1, roles: [control-plane, worker]}}\n\
             - {{name: b, address: 192.0.2.2, roles: [worker]}}\n\
             - {{name: c, address: 192.0.2.3, roles: [worker]}}\n"
        );
        ClusterSpec::read(&text, &|_| Ok(())).spec.unwrap()
    }

    /// Three nodes where the servers of `failed` (`a>b`: b asked from a) do not answer.
    fn seen(failed: &[&str]) -> BTreeMap<String, Seen> {
        let all: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let of = |node: &String| {
            let servers = failed
                .iter()
                .filter_map(|pair| pair.split_once('>'))
                .filter(|(from, _)| from == node)
                .map(|(_, to)| (to.to_owned(), "timed out".to_owned()))
                .collect();
            Seen::Asked(all.clone(), Unanswered { names: BTreeMap::new(), servers })
        };
        all.iter().map(|node| (node.clone(), of(node))).collect()
    }

    #[test]
    fn what_does_not_work_is_told_with_place_and_cause() {
        let check = |failed: &[&str], want: &[&[&str]]| {
            let found = judge(&spec("vxlan"), &seen(failed));
            assert_eq!(found.len(), want.len(), "{failed:?}: {found:#?}");
            for (found, words) in found.iter().zip(want) {
                for word in *words {
                    assert!(found.contains(word), "{word:?} in {found}");
                }
            }
        };
        check(&[], &[]);
        check(
            &["a>b"],
            &[&["pods of node b are not reached from node a: timed out", "UDP port 8472", "192.0.2.2"]],
        );
        check(&["a>b", "b>a"], &[&["pods of nodes a and b do not reach each other"]]);
        // A Service that is not reached is no news where pods are not.
        check(&["a>b", "a>the Service"], &[&["pods of node b"]]);
        check(&["a>the Service"], &[&["a Service is not reached from node a", "kube-proxy"]]);
        check(&["a>b", "c>b", "b>a", "b>c"], &[&["pods of node b are reached from no other node"]]);
        check(&["b>b", "a>b", "b>a", "c>b"], &[&["pods of node b do not even reach each other", "FORWARD"]]);
        let routed = judge(&spec("routes"), &seen(&["a>c"]));
        assert!(routed[0].contains("podNetwork: vxlan"), "{routed:?}");
    }

    #[test]
    fn a_node_without_a_pod_is_told_once() {
        let mut seen = seen(&[]);
        seen.insert("b".into(), Seen::NoPod("ErrImageNeverPull".into()));
        seen.insert("c".into(), Seen::NoExec("timed out".into()));
        let names = [("kubernetes.default.svc.cluster.local.".to_owned(), "no answer".to_owned())].into();
        seen.insert("a".into(), Seen::Asked(BTreeSet::new(), Unanswered { names, servers: BTreeMap::new() }));
        let found = judge(&spec("vxlan"), &seen);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].contains("on node a the cluster DNS") && found[0].contains("cox-dns"), "{found:#?}");
        assert!(found[1].contains("no pod starts on node b: ErrImageNeverPull"), "{found:#?}");
        assert!(found[2].contains("port 10250 (192.0.2.3)"), "{found:#?}");
    }

    #[test]
    fn each_pod_asks_a_bounded_number_of_others() {
        assert_eq!(peers(&["a", "b", "c"], 2), ["a", "b", "c"].map(str::to_owned).into());
        let many: Vec<String> = (0..40).map(|i| format!("n{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let of_last = peers(&many, 39);
        assert!(of_last.len() == MOST && of_last.contains("n39") && of_last.contains("n0"), "{of_last:?}");
    }
}
