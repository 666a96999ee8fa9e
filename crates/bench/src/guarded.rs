//! Requests of somebody who is not almighty, with everything recorded: client certificate, RBAC, audit at `Metadata`.
use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode};
use serde_json::json;

use crate::Plan;
use crate::connect::Target;
use crate::host::Host;
use crate::load::{Outcome, Shape, run};
use crate::objects::{config_map, name, namespace};
use crate::report::{Report, median};

const POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
/// Bindings among which that of the client is found.
const BINDINGS: usize = 1000;
const SPACE: &str = "guarded";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// CPU of the server for each of three requests.
pub async fn measure(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let (policy, trail) = (host.file("audit-policy.yaml"), host.file("audit.log"));
    std::fs::write(&policy, POLICY)?;
    let mut command = host.api_server("db-guarded");
    command.arg("--audit-policy-file").arg(policy).arg("--audit-log-path").arg(&trail);
    let (server, _) = host.start(command, "kube-apiserver").await?;
    let admin = &host.target;
    namespace(admin, SPACE).await?;
    for i in 0..BINDINGS {
        let user = if i == 0 { "jane".to_owned() } else { format!("user-{i}") };
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": format!("b{i}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
        let path = format!("{RBAC}/namespaces/{SPACE}/rolebindings");
        admin.must(Method::POST, &path, &binding, StatusCode::CREATED).await?;
    }
    let jane = host.client("jane", &["devs"])?;
    let maps = format!("/api/v1/namespaces/{SPACE}/configmaps");
    let began = std::time::Instant::now();
    while jane.once(Method::GET, &maps, &json!(null)).await?.0 != StatusCode::OK {
        ensure!(began.elapsed().as_secs() < 60, "the binding does not count");
    }
    let path = maps.clone();
    let create = rounds(plan, &jane, server.pid(), StatusCode::CREATED, move |target, round, i| {
        target.request(Method::POST, &path, config_map(&name(&format!("m{round}"), i), 450))
    });
    add(report, "create, RBAC and audit, server CPU", create.await?);
    let path = format!("{maps}/{}", name("m1", 0));
    let get = rounds(plan, &jane, server.pid(), StatusCode::OK, move |target, _, _| {
        target.request(Method::GET, &path, "")
    });
    add(report, "get, RBAC and audit, server CPU", get.await?);
    let denied = rounds(plan, &jane, server.pid(), StatusCode::FORBIDDEN, |target, _, _| {
        target.request(Method::GET, "/api/v1/nodes", "")
    });
    add(report, "denied, RBAC and audit, server CPU", denied.await?);
    let lines = std::fs::metadata(&trail).context("nothing was recorded")?.len();
    ensure!(lines > 0, "nothing was recorded");
    Ok(())
}

async fn rounds(
    plan: &Plan,
    target: &Target,
    server: u32,
    expect: StatusCode,
    make: impl Fn(&Target, usize, usize) -> http::Request<crate::connect::Body> + Clone + 'static,
) -> Result<Vec<Outcome>> {
    let mut all = Vec::new();
    for round in 0..=plan.rounds {
        let (made, make) = (target.clone(), make.clone());
        let shape = Shape { clients: 32, connections: 1, time: plan.round(), count: 20_000 };
        let outcome = run(target, server, shape, expect, move |i| make(&made, round, i)).await?;
        // The first warms up.
        if round > 0 {
            all.push(outcome);
        }
    }
    Ok(all)
}

fn add(report: &mut Report, what: &str, outcomes: Vec<Outcome>) {
    let rate = median(outcomes.iter().map(Outcome::rate).collect());
    let each = median(outcomes.iter().map(Outcome::cpu_each).collect());
    let detail = format!("{rate:.0} /s, 32 clients, 1 connection, TLS, {BINDINGS} bindings");
    report.add(what, each, "us", detail);
}
