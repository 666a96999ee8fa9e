//! Guide 002: two masters, two workers, a control node and nginx; cfssl, encrypted secrets, etcd with mutual TLS.
mod certificates;
mod masters;
mod workers;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::eventually;

use self::masters::ETCDCTL;
use crate::changes::{changed, refused};
use crate::hosts::{Host, Network};
use crate::images::{HYPERKUBE, Images, PAUSE};
use crate::nodes;

/// As the administrator from the control node, through the balancer.
const KUBECTL: &str = "kubectl --kubeconfig /opt/certs/remote.kubeconfig";
const SERVICES: &str = "kube-apiserver kube-controller-manager kube-scheduler";

struct Hosts {
    control: Host,
    balancer: Host,
    masters: Vec<Host>,
    workers: Vec<Host>,
}

impl Hosts {
    fn boot(network: &Network) -> Result<Self> {
        let all = [
            ("control", "10.128.15.220"),
            ("lb", "10.128.15.226"),
            ("master1", "10.128.15.221"),
            ("master2", "10.128.15.222"),
            ("master3", "10.128.15.223"),
            ("node1", "10.128.15.224"),
            ("node2", "10.128.15.225"),
        ];
        let mut hosts = network.boot(&all)?;
        let workers = hosts.split_off(5);
        let masters = hosts.split_off(2);
        let balancer = hosts.pop().context("lb")?;
        Ok(Self { control: hosts.pop().context("control")?, balancer, masters, workers })
    }

    fn all(&self) -> impl Iterator<Item = &Host> {
        [&self.control, &self.balancer].into_iter().chain(&self.masters).chain(&self.workers)
    }

    /// The variables that the guide exports on a master.
    fn variables(&self, master: &Host) -> String {
        format!(
            "export INTERNAL_IP={} CONTROLLER0_IP={} CONTROLLER1_IP={}\n",
            master.address, self.masters[0].address, self.masters[1].address
        )
    }
}

/// Follows the guide, and goes on where it stops.
pub fn replay() -> Result<()> {
    let network = Network::new("m")?;
    let images = Images::new(network.dir());
    let mut hosts = Hosts::boot(&network)?;
    let done = certificates(&hosts)
        .and_then(|()| etcd(&hosts))
        .and_then(|()| control_plane(&hosts))
        .and_then(|()| balancer(&hosts))
        .and_then(|()| third_member(&hosts))
        .and_then(|()| workers(&hosts, &images))
        .and_then(|()| sealed(&hosts))
        .and_then(|()| beyond(&hosts))
        .and_then(|()| power_cut(&mut hosts));
    done.map_err(|e| {
        let logs: String = hosts.all().map(Host::journals).collect();
        e.context(logs)
    })
}

fn certificates(hosts: &Hosts) -> Result<()> {
    let control = &hosts.control;
    let nodes: String = hosts.workers.iter().map(|w| format!("{}:{}\n", w.name, w.address)).collect();
    control.write("/opt/certs/node.cfg", &nodes)?;
    let of = |field: fn(&Host) -> &str| hosts.masters.iter().map(field).collect::<Vec<_>>().join(",");
    let (addresses, names) = (of(|m| &m.address), of(|m| &m.name));
    let names = format!(
        "10.32.0.1,{addresses},{names},{},lb,127.0.0.1,localhost,kubernetes.default",
        hosts.balancer.address
    );
    control.sh(&format!("export CERT_HOSTNAME={names}\n{}", certificates::CERTIFICATES))?;
    let subject = |file: &str| {
        control.sh(&format!("openssl x509 -in /opt/certs/{file}.pem -noout -subject -ext subjectAltName"))
    };
    let node = subject("node1")?;
    ensure!(node.contains("O = system:nodes") && node.contains("CN = system:node:node1"), "{node}");
    let server = subject("kubernetes")?;
    ensure!(server.contains("IP Address:10.32.0.1") && server.contains("DNS:kubernetes.default"), "{server}");
    control.sh(&format!(
        "export KUBERNETES_ADDRESS={}\n{}",
        hosts.balancer.address,
        certificates::KUBECONFIGS
    ))?;
    control.sh(certificates::ENCRYPTION)?;
    let pem = |names: &[&'static str]| names.iter().map(|n| format!("/opt/certs/{n}")).collect::<Vec<_>>();
    let for_master = pem(&[
        "ca.pem",
        "ca-key.pem",
        "kubernetes-key.pem",
        "kubernetes.pem",
        "service-account-key.pem",
        "service-account.pem",
        "encryption-config.yaml",
        "kube-controller-manager.kubeconfig",
        "kube-scheduler.kubeconfig",
        "admin.kubeconfig",
    ]);
    let for_master: Vec<&str> = for_master.iter().map(String::as_str).collect();
    for master in &hosts.masters {
        control.scp(&for_master, master, "/var/lib/kubernetes")?;
    }
    for worker in &hosts.workers {
        let own = ["", "-key"].map(|key| format!("/opt/certs/{}{key}.pem", worker.name));
        let kubeconfig = format!("/opt/certs/{}.kubeconfig", worker.name);
        let files =
            [own[0].as_str(), &own[1], &kubeconfig, "/opt/certs/ca.pem", "/opt/certs/kube-proxy.kubeconfig"];
        control.scp(&files, worker, "/var/lib/incoming")?;
    }
    Ok(())
}

fn etcd(hosts: &Hosts) -> Result<()> {
    let two = &hosts.masters[..2];
    let cluster: Vec<String> = two.iter().map(|m| format!("{}=https://{}:2380", m.name, m.address)).collect();
    for master in two {
        let variables = hosts.variables(master);
        master.sh(&format!(
            "{variables}export ETCD_NAME={} INITIAL_CLUSTER={}\n{}",
            master.name,
            cluster.join(","),
            masters::ETCD
        ))?;
    }
    for master in two {
        let members = |list: &str| list.matches(", started, ").count() == 2 && list.contains("master2");
        master.until("etcd has two members", &format!("{ETCDCTL} member list"), members)?;
    }
    Ok(())
}

fn control_plane(hosts: &Hosts) -> Result<()> {
    for (i, master) in hosts.masters[..2].iter().enumerate() {
        let variables = hosts.variables(master);
        master.sh("mkdir -p /etc/kubernetes/config")?;
        let units = [
            ("kube-apiserver", masters::API_SERVER, masters::API_SERVER_CHANGES),
            ("kube-controller-manager", masters::CONTROLLER_MANAGER, masters::CONTROLLER_MANAGER_CHANGES),
            ("kube-scheduler", masters::SCHEDULER, &[]),
        ];
        for (unit, text, changes) in units {
            if i == 0 && !changes.is_empty() {
                refused(master, unit, &format!("{variables}{text}"), changes)?;
            }
            master.sh(&format!("{variables}{}", changed(text, changes)?))?;
        }
        if i == 0 {
            // The file that the guide has is of a version that is no more.
            master.write("/etc/kubernetes/config/kube-scheduler.yaml", masters::SCHEDULER_CONFIG)?;
            let said = master.answer("kube-scheduler --config=/etc/kubernetes/config/kube-scheduler.yaml")?;
            ensure!(
                said.code != Some(0)
                    && said
                        .err
                        .contains("removed in v1.19; write apiVersion: kubescheduler.config.k8s.io/v1"),
                "{}",
                said.err
            );
        }
        let config = changed(masters::SCHEDULER_CONFIG, masters::SCHEDULER_CONFIG_CHANGES)?;
        master.write("/etc/kubernetes/config/kube-scheduler.yaml", &config)?;
        for verb in ["daemon-reload", &format!("enable {SERVICES}"), &format!("start {SERVICES}")] {
            master.sh(&format!("sudo systemctl {verb}"))?;
        }
    }
    for master in &hosts.masters[..2] {
        let ask = "kubectl get componentstatuses --kubeconfig /var/lib/kubernetes/admin.kubeconfig";
        let healthy = |table: &str| {
            let row = |name: &str| {
                table.lines().any(|line| line.starts_with(name) && line.contains("Healthy   ok"))
            };
            ["controller-manager", "scheduler", "etcd-0", "etcd-1"].iter().all(|name| row(name))
        };
        master.until("all components are healthy", ask, healthy)?;
        master.sh(&format!("sudo systemctl status {SERVICES}"))?;
    }
    let master = &hosts.masters[0];
    for (file, text) in masters::KUBELET_RBAC {
        master.write(&format!("/opt/{file}"), &changed(text, masters::KUBELET_RBAC_CHANGES)?)?;
        let applied = master
            .sh(&format!("kubectl apply -f /opt/{file} --kubeconfig /var/lib/kubernetes/admin.kubeconfig"))?;
        ensure!(applied.starts_with("clusterrole") && applied.trim_end().ends_with(" created"), "{applied}");
    }
    Ok(())
}

fn balancer(hosts: &Hosts) -> Result<()> {
    let balancer = &hosts.balancer;
    balancer.sh(&format!("{}{}", hosts.variables(balancer), masters::BALANCER))?;
    for port in [6443, 443] {
        let version =
            |text: &str| text.contains("\"major\": \"1\"") && text.contains("\"gitVersion\": \"v1.36.");
        balancer.until(
            "the balancer leads on",
            &format!("curl -sk https://localhost:{port}/version"),
            version,
        )?;
    }
    hosts
        .control
        .until("the administrator from afar", &format!("{KUBECTL} get --raw /readyz"), |ok| ok == "ok")?;
    Ok(())
}

/// Two members stand no loss; the guide leaves it at that.
fn third_member(hosts: &Hosts) -> Result<()> {
    let (first, third) = (&hosts.masters[0], &hosts.masters[2]);
    // Not before the first two have known each other for five seconds.
    let add = format!("{ETCDCTL} member add {} --peer-urls=https://{}:2380", third.name, third.address);
    first.until("a third member is let in", &add, |_| true)?;
    let cluster: Vec<String> =
        hosts.masters.iter().map(|m| format!("{}=https://{}:2380", m.name, m.address)).collect();
    let unit = masters::ETCD.replace("--initial-cluster-state new", "--initial-cluster-state existing");
    third.sh(&format!(
        "{}export ETCD_NAME={} INITIAL_CLUSTER={}\n{unit}",
        hosts.variables(third),
        third.name,
        cluster.join(",")
    ))?;
    let three = |list: &str| list.matches(", started, ").count() == 3;
    third.until("etcd has three members", &format!("{ETCDCTL} member list"), three)?;
    Ok(())
}

fn workers(hosts: &Hosts, images: &Images) -> Result<()> {
    for (i, worker) in hosts.workers.iter().enumerate() {
        let variables = format!("export HOSTNAME={}\n", worker.name);
        worker.sh(&format!("{variables}{}", workers::KUBELET_FILES))?;
        nodes::start_containerd(worker)?;
        images.import(worker, &[PAUSE, HYPERKUBE])?;
        let unit = changed(workers::KUBELET, &[workers::RUNTIME])?;
        if i == 0 {
            refused(worker, "kubelet", &format!("{variables}{unit}"), workers::KUBELET_CHANGES)?;
        }
        worker.sh(&format!("{variables}{}", changed(&unit, workers::KUBELET_CHANGES)?))?;
        worker.sh(workers::PROXY)?;
        for verb in [
            "daemon-reload",
            "enable kubelet kube-proxy",
            "start kubelet kube-proxy",
            "status kubelet kube-proxy",
        ] {
            worker.sh(&format!("systemctl {verb}"))?;
        }
    }
    // Where the guide ends: both are there, and have no network yet.
    let both = |table: &str| {
        ["node1", "node2"].iter().all(|n| table.lines().any(|l| l.starts_with(n) && l.contains(" NotReady ")))
    };
    hosts.control.until("the guide's last command", &format!("{KUBECTL} get nodes"), both)?;
    Ok(())
}

/// Secrets are sealed in etcd.
fn sealed(hosts: &Hosts) -> Result<()> {
    hosts.control.sh(&format!(
        "{KUBECTL} create secret generic kubernetes-the-hard-way --from-literal=mykey=mydata"
    ))?;
    let dump = hosts.masters[1]
        .sh(&format!("{ETCDCTL} get /registry/secrets/default/kubernetes-the-hard-way | hexdump -C"))?;
    let text: String = dump.lines().filter_map(|l| l.split('|').nth(1)).collect();
    ensure!(text.contains("k8s:enc:aescbc:v1:key1:") && !text.contains("mydata"), "{dump}");
    let back = hosts.control.sh(&format!(
        "{KUBECTL} get secret kubernetes-the-hard-way -o jsonpath={{.data.mykey}} | base64 -d"
    ))?;
    ensure!(back == "mydata", "{back}");
    Ok(())
}

/// Pods across nodes, DNS, logs and exec through the balancer.
fn beyond(hosts: &Hosts) -> Result<()> {
    let control = &hosts.control;
    let workers: Vec<&Host> = hosts.workers.iter().collect();
    let masters: Vec<&Host> = hosts.masters.iter().collect();
    nodes::network(control, KUBECTL, &workers, &masters)?;
    let ready = |table: &str| table.lines().filter(|l| l.contains(" Ready ")).count() == 2;
    control.until("both nodes are ready", &format!("{KUBECTL} get nodes --no-headers"), ready)?;
    control.write("/opt/workload.yaml", &nodes::workload("10.32.0.10"))?;
    control.sh(&format!("{KUBECTL} apply -f /opt/workload.yaml"))?;
    nodes::talk(control, KUBECTL, 2)?;
    // The certificates are believed by what they say: a kubelet may not read what is not its own.
    let kubelet = "kubectl --kubeconfig /var/lib/kubelet/kubeconfig get secret kubernetes-the-hard-way";
    let refused = hosts.workers[0].answer(kubelet)?;
    ensure!(refused.code != Some(0) && refused.err.contains("no relationship found"), "{}", refused.err);
    Ok(())
}

/// The master that leads is lost; what it did is done by the other.
fn power_cut(hosts: &mut Hosts) -> Result<()> {
    let holder = |control: &Host, lease: &str| {
        control
            .sh(&format!("{KUBECTL} -n kube-system get lease {lease} -o jsonpath={{.spec.holderIdentity}}"))
    };
    let first = holder(&hosts.control, "kube-controller-manager")?;
    let lost = hosts
        .masters
        .iter()
        .position(|m| first.starts_with(&format!("{}_", m.name)))
        .with_context(|| format!("the leader is no master: {first}"))?;
    let scheduler = holder(&hosts.control, "kube-scheduler")?;
    ensure!(scheduler.starts_with("master"), "{scheduler}");
    hosts.masters[lost].cut()?;
    let began = Instant::now();
    let control = &hosts.control;
    let mut wrote = 0;
    eventually("writes go on", Duration::from_secs(90), || {
        wrote += 1;
        control.sh(&format!("{KUBECTL} --request-timeout=5s create configmap after-{wrote}"))
    })?;
    println!("     a write through the balancer {:.1} s after the power cut", began.elapsed().as_secs_f64());
    eventually("the other leads", Duration::from_secs(120), || {
        for lease in ["kube-controller-manager", "kube-scheduler"] {
            let now = holder(control, lease)?;
            ensure!(!now.starts_with(&format!("master{}_", lost + 1)), "{lease}: {now}");
        }
        Ok(())
    })?;
    println!(
        "     the other master was seen to lead {:.1} s after the power cut",
        began.elapsed().as_secs_f64()
    );
    // A controller, the scheduler, a kubelet and the proxy: all of them work on.
    control.sh(&format!("{KUBECTL} -n kube-system scale deployment coredns --replicas=3"))?;
    let three =
        format!("{KUBECTL} -n kube-system get deployment coredns -o jsonpath={{.status.readyReplicas}}");
    control.until("a third pod", &three, |n| n == "3")?;
    nodes::talk(control, KUBECTL, 2)?;
    Ok(())
}
