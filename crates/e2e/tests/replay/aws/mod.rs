//! Guide 000: separate etcd hosts, a token file and an ABAC policy, one certificate for all, and the load balancer that the
//! guide leaves to be done.
mod files;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::eventually;

use crate::changes::{changed, refused};
use crate::hosts::{Host, Network};

const SERVICES: &str = "kube-apiserver kube-controller-manager kube-scheduler";
/// As the guide's user, from the work computer.
const KUBECTL: &str = "kubectl --kubeconfig /opt/certs/kubeconfig";

/// Follows the guide, and does its todo.
pub fn replay() -> Result<()> {
    let network = Network::new("a")?;
    let all = [
        ("kworkhorse", "10.0.0.91"),
        ("lb", "10.0.0.90"),
        ("etcd1", "10.0.0.245"),
        ("etcd2", "10.0.0.246"),
        ("controller1", "10.0.0.137"),
        ("controller2", "10.0.0.138"),
    ];
    let mut hosts = network.boot(&all)?;
    let done = up(&hosts).and_then(|()| access(&hosts)).and_then(|()| lose_one(&mut hosts));
    done.map_err(|e| {
        let logs: String = hosts.iter().map(Host::journals).collect();
        e.context(logs)
    })
}

fn up(hosts: &[Host]) -> Result<()> {
    let [work, balancer, etcd @ .., first, second] = hosts else { unreachable!("six hosts are booted") };
    work.sh(&format!("export KUBERNETES_PUBLIC_IP_ADDRESS={}\n{}", balancer.address, files::CERTIFICATES))?;
    let shown = work.sh("openssl x509 -in /opt/certs/kubernetes.pem -text -noout")?;
    ensure!(
        shown.contains("C = NO, ST = Oslo, L = Oslo, O = Kubernetes, OU = Cluster, CN = kubernetes")
            && shown.contains("IP Address:10.0.0.90"),
        "{shown}"
    );
    let three = ["/opt/certs/ca.pem", "/opt/certs/kubernetes-key.pem", "/opt/certs/kubernetes.pem"];
    for host in etcd {
        work.scp(&three, host, "/etc/etcd")?;
        host.sh(&format!("export INTERNAL_IP={} ETCD_NAME={}\n{}", host.address, host.name, files::ETCD))?;
    }
    let health = changed(files::HEALTH, files::HEALTH_CHANGES)?;
    for host in etcd {
        // It tells of health on its standard error.
        let both = |text: &str| text.matches(" is healthy: ").count() == 2;
        host.until("etcd is healthy", &format!("{health} 2>&1"), both)?;
    }
    for (i, host) in [first, second].into_iter().enumerate() {
        work.scp(&three, host, "/var/lib/kubernetes")?;
        host.write("/var/lib/kubernetes/token.csv", files::TOKENS)?;
        host.write("/var/lib/kubernetes/authorization-policy.jsonl", files::POLICY)?;
        let local =
            "SERVER=https://127.0.0.1:6443 CA=/var/lib/kubernetes/ca.pem NAME=/var/lib/kubernetes/kubeconfig";
        host.sh(&format!("{local}\n{}", files::KUBECONFIG))?;
        let units = [
            ("kube-apiserver", files::API_SERVER, files::API_SERVER_CHANGES),
            ("kube-controller-manager", files::CONTROLLER_MANAGER, files::MASTER_CHANGES),
            ("kube-scheduler", files::SCHEDULER, files::MASTER_CHANGES),
        ];
        for (unit, text, changes) in units {
            let start = format!("export UNIT={unit} INTERNAL_IP={}\n", host.address);
            if i == 0 && unit == "kube-apiserver" {
                let place = format!(
                    "{start}{text}sed -i s/INTERNAL_IP/$INTERNAL_IP/g $UNIT.service; mv $UNIT.service /etc/systemd/system/"
                );
                refused(host, unit, &place, changes)?;
            }
            host.sh(&format!("{start}{}{}", changed(text, changes)?, files::START))?;
        }
    }
    for host in [first, second] {
        let ask = "kubectl get componentstatuses --kubeconfig /var/lib/kubernetes/kubeconfig";
        host.until("all components are healthy", ask, |table| table.matches(" Healthy ").count() == 4)?;
        host.sh(&format!("sudo systemctl status {SERVICES} --no-pager"))?;
    }
    balancer.sh(files::HAPROXY)?;
    let certs =
        format!("SERVER=https://{}:443 CA=/opt/certs/ca.pem NAME=/opt/certs/kubeconfig", balancer.address);
    work.sh(&format!("{certs}\n{}", files::KUBECONFIG))?;
    work.until("the balancer leads on", &format!("{KUBECTL} get --raw /readyz"), |ok| ok == "ok")?;
    Ok(())
}

/// What the token file and the policy let through.
fn access(hosts: &[Host]) -> Result<()> {
    let work = &hosts[0];
    let code =
        |what: &str| work.sh(&format!("curl -sk -o /dev/null -w '%{{http_code}}' https://10.0.0.90{what}"));
    let pods = "/api/v1/namespaces/default/pods";
    for (what, expect) in [
        // Whoever it is may read what is no resource, but has to be somebody.
        ("/version".to_owned(), "403"),
        ("/version -H 'Authorization: Bearer chAng3m3'".to_owned(), "200"),
        (pods.to_owned(), "403"),
        (format!("{pods} -H 'Authorization: Bearer chAng3m3'"), "200"),
        (format!("{pods} -H 'Authorization: Bearer guessed'"), "401"),
    ] {
        let found = code(&what)?;
        ensure!(found == expect, "{what}: {found}, not {expect}");
    }
    // Three lines with one token: the last is who it is.
    let who = work.sh(&format!("{KUBECTL} auth whoami -o jsonpath={{.status.userInfo.username}}"))?;
    ensure!(who == "kubelet", "{who}");
    work.sh(&format!("{KUBECTL} create deployment web --image=localhost/web --replicas=2"))?;
    let pending = |text: &str| text.matches("Pending").count() == 2;
    work.until("controllers work", &format!("{KUBECTL} get pods --no-headers"), pending)?;
    let said = format!("{KUBECTL} get events");
    work.until("the scheduler works", &said, |text| text.contains("no nodes available to schedule pods"))?;
    let endpoints = format!("{KUBECTL} get endpoints kubernetes -o jsonpath={{.subsets[0].addresses[*].ip}}");
    work.until("both servers are known", &endpoints, |ips| {
        ips.contains("10.0.0.137") && ips.contains("10.0.0.138")
    })?;
    Ok(())
}

/// One controller loses its power: the balancer sends everybody to the other.
fn lose_one(hosts: &mut [Host]) -> Result<()> {
    hosts[4].cut()?;
    let began = Instant::now();
    let work = &hosts[0];
    let mut tries = 0;
    eventually("writes go on", Duration::from_secs(60), || {
        tries += 1;
        work.sh(&format!("{KUBECTL} --request-timeout=5s create configmap after-{tries}"))
    })?;
    println!("     a write through haproxy {:.1} s after the power cut", began.elapsed().as_secs_f64());
    let endpoints = format!("{KUBECTL} get endpoints kubernetes -o jsonpath={{.subsets[0].addresses[*].ip}}");
    work.until("the lost server is forgotten", &endpoints, |ips| ips.trim() == "10.0.0.138")?;
    Ok(())
}
