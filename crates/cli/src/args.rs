//! The command line.
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{commands, parts};

/// A whole Kubernetes in one binary, and the way to bring it up.
#[derive(Parser)]
#[command(name = "cox", version, about, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:\n  cox up                      a cluster on this machine\n  \
    export KUBECONFIG=$(cox kubeconfig --path)\n  kubectl get nodes\n  cox down --purge            remove it with its data")]
pub struct Cli {
    /// Form of the output.
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text, global = true)]
    pub output: Output,
    /// Says more in the logs; upstream's --v=N is taken too.
    #[arg(short = 'v', long = "v", value_name = "N", global = true, num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    pub v: Option<u8>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// How much to log: servers tell what changes, commands only what is wrong.
    pub fn verbosity(&self) -> u8 {
        let is_server = match &self.command {
            Command::Up(options) => options.foreground,
            Command::Probe { .. } | Command::Reach { .. } | Command::ImportImages { .. } => false,
            Command::Report | Command::CleanHost { .. } | Command::Join(_) | Command::Token(_) => false,
            Command::Init(_) | Command::Validate(_) | Command::Render(_) => false,
            Command::Down(_) | Command::Status(_) | Command::Kubeconfig(_) | Command::Completion { .. } => {
                false
            }
            Command::Backup(_)
            | Command::Certs(_)
            | Command::Restore(_)
            | Command::Upgrade(_)
            | Command::Db(_)
            | Command::Migrate(_)
            | Command::Secrets(_) => false,
            _ => true,
        };
        self.v.unwrap_or(u8::from(is_server))
    }
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object at the end.
    Json,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Command {
    /// Writes a commented cluster.yaml, which describes a cluster of several hosts.
    Init(commands::init::Init),
    /// Checks a cluster.yaml, offline; says everything that is wrong with it, with line and path.
    Validate(commands::validate::Validate),
    /// Writes everything that `up` would install, by host.
    Render(commands::render::Render),
    /// Brings a cluster up on this machine, or repairs it; waits until it is healthy.
    Up(Box<Up>),
    /// Stops a cluster; its data is kept unless --purge.
    Down(Down),
    /// Tells how a cluster is; the exit code says healthy (0) or not (1).
    #[command(
        after_help = "Examples:\n  cox status\n  cox status --name ci -o json\n  until cox status >/dev/null; do sleep 1; done"
    )]
    Status(Which),
    /// Prints the admin kubeconfig.
    Kubeconfig(Kubeconfig),
    /// Tells of certificates, renews them, replaces authorities.
    Certs(Box<commands::certs::Certs>),
    /// Bootstrap tokens, with which hosts join.
    #[command(
        subcommand,
        after_help = "Examples:\n  cox token create --print-join-command\n  cox token list"
    )]
    Token(commands::token::Token),
    /// Makes this machine a node of a cluster that exists, with a bootstrap token.
    Join(Box<commands::join::Join>),
    /// What is sealed in the store.
    #[command(
        subcommand,
        after_help = "Examples:\n  cox secrets rewrite    after a change of the first key in the cluster's encryption/config.yaml"
    )]
    Secrets(commands::secrets::Secrets),
    /// Writes all objects of a cluster to one file, while it runs or not.
    Backup(commands::backup::Backup),
    /// Makes a stopped cluster what a backup holds.
    Restore(commands::restore::Restore),
    /// Brings the hosts of a cluster to this build, one after another.
    Upgrade(commands::upgrade::Upgrade),
    /// Looks into a cluster's store.
    Db(commands::db::Db),
    /// Moves a stopped cluster's objects between its embedded store and etcd.
    Migrate(Box<commands::migrate::Migrate>),
    /// Prints a completion script for a shell.
    #[command(
        after_help = "Examples:\n  source <(cox completion bash)\n  cox completion zsh > \"${fpath[1]}/_cox\"\n  \
        cox completion fish > ~/.config/fish/completions/cox.fish"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Runs the parts of a cluster that `up` has prepared; `up` starts it in the background.
    #[command(hide = true)]
    Run(Which),
    /// The first process of a host of a local cluster; `up` starts it in namespaces of its own.
    #[command(hide = true, name = "host-init")]
    HostInit {
        /// What the host is.
        #[arg(long)]
        spec: PathBuf,
    },
    /// Whether a service of this host works; asked over ssh.
    #[command(hide = true)]
    Probe {
        /// For how long to go on asking.
        #[arg(long, default_value_t = 0)]
        patience_ms: u64,
    },
    /// Asks names and servers from where it runs, and tells what answered; run in pods to verify a cluster.
    #[command(hide = true)]
    Reach {
        /// What to ask, as JSON.
        question: String,
    },
    /// How this host is; asked by `status`.
    #[command(hide = true)]
    Report,
    /// Takes away what is left of a cluster on this host; asked by `down`.
    #[command(hide = true, name = "clean-host")]
    CleanHost {
        /// What.
        what: commands::on_host::Clean,
    },
    /// Gives this host's container runtime the system images; asked over ssh.
    #[command(hide = true, name = "import-images")]
    ImportImages {
        /// Socket of the container runtime.
        #[arg(long)]
        socket: PathBuf,
        /// How it stacks image layers.
        #[arg(long, default_value = "overlayfs")]
        snapshotter: String,
    },
    /// The API server alone.
    #[command(
        name = "kube-apiserver",
        after_help = "Examples:\n  cox kube-apiserver --data-dir db --client-ca-file ca.crt --tls-cert-file apiserver.crt \\\n    --tls-private-key-file apiserver.key --authorization-mode Node,RBAC --service-account-issuer https://cluster \\\n    --service-account-signing-key-file sa.key --service-account-key-file sa.pub"
    )]
    KubeApiserver(Box<parts::api_server::Flags>),
    /// The controllers alone.
    #[command(
        name = "kube-controller-manager",
        after_help = "Examples:\n  cox kube-controller-manager --kubeconfig kube-controller-manager.kubeconfig \\\n    --cluster-cidr 10.244.0.0/16 --root-ca-file ca.crt --use-service-account-credentials"
    )]
    KubeControllerManager(Box<parts::controller_manager::Flags>),
    /// The scheduler alone.
    #[command(
        name = "kube-scheduler",
        after_help = "Examples:\n  cox kube-scheduler --kubeconfig kube-scheduler.kubeconfig\n  \
        cox kube-scheduler --config kube-scheduler.yaml   a KubeSchedulerConfiguration"
    )]
    KubeScheduler(Box<parts::scheduler::Flags>),
    /// The node agent alone.
    #[command(
        name = "kubelet",
        after_help = "Examples:\n  cox kubelet --kubeconfig kubelet.kubeconfig --config kubelet-config.yaml   a KubeletConfiguration"
    )]
    Kubelet(Box<parts::kubelet::Flags>),
    /// The service proxy alone.
    #[command(
        name = "kube-proxy",
        after_help = "Examples:\n  cox kube-proxy --kubeconfig kube-proxy.kubeconfig --cluster-cidr 10.244.0.0/16\n  \
        cox kube-proxy --config kube-proxy-config.yaml   a KubeProxyConfiguration\n  \
        cox kube-proxy --cleanup"
    )]
    KubeProxy(Box<parts::proxy::Flags>),
    /// The cluster DNS alone.
    #[command(
        name = "dns",
        after_help = "Examples:\n  cox dns --kubeconfig coredns.kubeconfig --listen 10.0.0.5:53"
    )]
    Dns(Box<parts::dns::Flags>),
    /// A TCP balancer with health checks in front of several API servers.
    #[command(
        name = "balancer",
        after_help = "Examples:\n  cox balancer --listen 127.0.0.1:6443 --backend 192.0.2.11:6443 --backend 192.0.2.12:6443 \\\n    \
        --certificate-authority ca.crt"
    )]
    Balancer(Box<parts::balancer::Flags>),
    /// A small HTTP server that tells its pod, node and request: the image localhost/cox/hello.
    #[command(hide = true)]
    Hello {
        /// Port to listen on.
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Holds a pod's namespaces: the image localhost/cox/pause.
    #[command(hide = true)]
    Pause,
}

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Name of the cluster; "default" if absent, and there is no cluster.yaml here.
    #[arg(long)]
    pub name: Option<String>,
    /// The file that describes the cluster; ./cluster.yaml if there is one and no --name is given.
    #[arg(id = "cluster-file", short = 'f', long = "file", value_name = "FILE", conflicts_with = "name")]
    pub file: Option<PathBuf>,
    /// Where clusters keep everything.
    #[arg(long, default_value = "/var/lib/cox", env = "COX_DATA_DIR")]
    pub data_dir: PathBuf,
}

impl Which {
    /// The file that describes the cluster, if one does.
    pub fn file(&self) -> Option<&Path> {
        let default = Path::new(crate::cluster_file::DEFAULT);
        match (&self.file, &self.name) {
            (Some(file), _) => Some(file),
            (None, Some(_)) => None,
            (None, None) => default.is_file().then_some(default),
        }
    }
}

/// `cox up`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox up\n  cox up --name ci --no-node --secure-port 7443   control plane only, no root needed\n  \
    cox up --foreground -v=2\n  \
    cox up --name three --nodes 3 --control-planes 3   three hosts on this machine, each of them a control plane\n  \
    cox up -f prod.yaml   hosts over ssh; `cox init` writes the file, and ./cluster.yaml needs no -f"
)]
pub struct Up {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// How many hosts run pods. More than one: each is a host of its own on this machine, in namespaces, and
    /// 127.0.0.1 leads to their API servers.
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// How many of these hosts are control planes too, the first ones; several keep their objects in etcd.
    #[arg(long, value_name = "N")]
    pub control_planes: Option<usize>,
    /// Port of the API server; 6443 if absent.
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// Control plane alone: no root, no containerd, no pods.
    #[arg(long)]
    pub no_node: bool,
    /// Stays in the foreground; an interrupt stops the parts, pods run on.
    #[arg(long)]
    pub foreground: bool,
    /// Name of the node; the host's name if absent.
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this machine that others reach; that of the default route if absent.
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Network of the pods.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: ipnet::Ipv4Net,
    /// Network of the Services.
    #[arg(long, default_value = "10.96.0.0/12")]
    pub service_cidr: ipnet::Ipv4Net,
    /// Port of the kubelet.
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Port of the cluster DNS on this machine's address.
    #[arg(long, default_value_t = 10053)]
    pub dns_port: u16,
    /// The etcd that keeps the objects, in place of an embedded store; holds until another is named.
    #[command(flatten)]
    pub etcd: commands::store::EtcdFlags,
    /// How long to wait until the cluster is healthy, in seconds.
    #[arg(long, default_value_t = 120)]
    pub wait: u64,
    /// How hosts that go are emptied.
    #[command(flatten)]
    pub drain: commands::drain::DrainFlags,
    /// Hosts over ssh: takes the network of their pods on trust, rather than trying it after a change.
    #[arg(long)]
    pub no_verify: bool,
}

/// `cox down`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox down                      stop it; `cox up` brings everything back\n  \
    cox down --name ci --purge    remove that one with its data"
)]
pub struct Down {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Removes its data too.
    #[arg(long, action = ArgAction::SetTrue)]
    pub purge: bool,
}

/// `cox kubeconfig`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  export KUBECONFIG=$(cox kubeconfig --path)\n  cox kubeconfig > admin.yaml\n  \
    cox kubeconfig --server https://k8s.example.org:443 > admin.yaml"
)]
pub struct Kubeconfig {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Prints the path of the file instead.
    #[arg(long)]
    pub path: bool,
    /// Another way to the API servers than the file's own, as https://HOST:PORT; their certificates have to be for it.
    #[arg(long, value_name = "URL", conflicts_with = "path", value_parser = server_url)]
    pub server: Option<String>,
}

fn server_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").unwrap_or_default();
    let is_url = text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|h| !h.is_empty()));
    if rest.is_empty() || !is_url { Err("want https://HOST:PORT".into()) } else { Ok(text.to_owned()) }
}

/// Whether a program name is that of a part.
pub fn is_part(name: &str) -> bool {
    matches!(name, "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" | "kubelet" | "kube-proxy")
}

/// The part that `hyperkube` has under a shorter name.
pub fn part_of_hyperkube(name: &str) -> Option<&'static str> {
    Some(match name {
        "apiserver" => "kube-apiserver",
        "controller-manager" => "kube-controller-manager",
        "scheduler" => "kube-scheduler",
        "proxy" => "kube-proxy",
        _ => return None,
    })
}

/// The completion script of a shell.
pub fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cox", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Whether JSON was asked for on a command line that is wrong elsewhere.
pub fn wants_json(argv: &[String]) -> bool {
    let json = |value: &str| value.trim_start_matches('=') == "json";
    argv.iter().enumerate().any(|(i, argument)| match argument.as_str() {
        "-o" | "--output" => argv.get(i + 1).is_some_and(|value| json(value)),
        other => other.strip_prefix("--output=").or_else(|| other.strip_prefix("-o")).is_some_and(json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples_and_takes_json() {
        for verb in Cli::command().get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name().to_owned();
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Examples") && help.contains(&format!("cox {name}")), "{name}: {help}");
        }
        let mut whole = Cli::command();
        whole.build();
        for verb in whole.get_subcommands() {
            assert!(verb.get_arguments().any(|a| a.get_long() == Some("output")), "{}", verb.get_name());
        }
    }

    #[test]
    fn shells_complete_verbs_and_flags() {
        use clap_complete::Shell;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell);
            for word in ["kube-controller-manager", "purge", "service-cidr", "validate"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn json_is_seen_on_a_wrong_command_line() {
        let line = |text: &str| wants_json(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for yes in
            ["cox up -o json --x", "cox up -ojson", "cox -o=json", "cox --output=json", "cox --output json"]
        {
            assert!(line(yes), "{yes}");
        }
        for no in ["cox up", "cox up -o text", "cox up json", "cox up -o"] {
            assert!(!line(no), "{no}");
        }
    }

    #[test]
    fn an_unknown_flag_is_named() {
        let error = Cli::try_parse_from(["cox", "kube-controller-manager", "--no-such-flag"]).err().unwrap();
        assert!(error.to_string().contains("--no-such-flag"), "{error}");
    }
}
