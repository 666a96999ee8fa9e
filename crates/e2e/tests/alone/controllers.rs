//! `cox kube-controller-manager` by itself, against an API server with RBAC.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{ApiServer, binary, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn controllers_act_as_their_service_accounts() -> Result<()> {
    let server = ApiServer::start(&binary(), None)?;
    let kubectl = server.kubectl();
    let root_ca = format!("--root-ca-file={}", server.pki().authority().certificate.display());

    // As the one user that upstream's roles give little, nothing comes of a Deployment.
    let shared = server.join("kube-controller-manager", &[&root_ca])?;
    eventually("the default service account", PATIENCE, || {
        let said = shared.said();
        ensure!(said.contains("became leader"), "{said}");
        kubectl.run("create deployment web --image=none --replicas=2").map(drop)
    })?;
    eventually("the refusal", PATIENCE, || {
        let said = shared.said();
        let words = "User \"system:kube-controller-manager\" cannot update resource \"deployments/status\"";
        ensure!(said.replace("\\\"", "\"").contains(words), "{said}");
        Ok(())
    })?;
    ensure!(kubectl.run("get replicasets,pods -o name")?.is_empty(), "something was made all the same");
    drop(shared);

    let own = server.join("kube-controller-manager", &[&root_ca, "--use-service-account-credentials"])?;
    let pods = |count: usize| {
        eventually("the pods", PATIENCE, || {
            let names = kubectl.run("get pods -o name")?;
            ensure!(names.lines().count() == count, "{names}{}", own.said());
            Ok(())
        })
    };
    pods(2)?;
    let accounts = kubectl.run("get serviceaccounts -n kube-system -o name")?;
    for account in ["deployment-controller", "replicaset-controller", "root-ca-cert-publisher"] {
        ensure!(accounts.contains(&format!("serviceaccount/{account}\n")), "{accounts}");
    }

    // An account that is made anew makes its tokens worthless: the controller gets itself another one.
    kubectl.run("delete serviceaccount -n kube-system replicaset-controller")?;
    // The API server remembers for some seconds whom it believed, so it takes more than one change.
    let mut replicas = [3, 2].into_iter().cycle();
    eventually("another account", PATIENCE, || {
        let count = replicas.next().unwrap_or(2);
        kubectl.run(&format!("scale deployment web --replicas={count}"))?;
        pods(count)?;
        kubectl.run("get serviceaccount -n kube-system replicaset-controller").map(drop)
    })
}
