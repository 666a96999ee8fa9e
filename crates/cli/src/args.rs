//! The command line.
use std::net::IpAddr;
use std::path::PathBuf;

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
            Command::Down(_) | Command::Status(_) | Command::Kubeconfig(_) | Command::Completion { .. } => {
                false
            }
            Command::Backup(_) | Command::Restore(_) | Command::Db(_) | Command::Migrate(_) => false,
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
    /// Brings a cluster up on this machine, or repairs it; waits until it is healthy.
    Up(Up),
    /// Stops a cluster; its data is kept unless --purge.
    Down(Down),
    /// Tells how a cluster is; the exit code says healthy (0) or not (1).
    Status(Which),
    /// Prints the admin kubeconfig.
    Kubeconfig(Kubeconfig),
    /// Writes all objects of a cluster to one file, while it runs or not.
    Backup(commands::backup::Backup),
    /// Makes a stopped cluster what a backup holds.
    Restore(commands::restore::Restore),
    /// Looks into a cluster's store.
    Db(commands::db::Db),
    /// Moves a stopped cluster's objects between its embedded store and etcd.
    Migrate(Box<commands::migrate::Migrate>),
    /// Prints a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Runs the parts of a cluster that `up` has prepared; `up` starts it in the background.
    #[command(hide = true)]
    Run(Which),
    /// The API server alone.
    #[command(name = "kube-apiserver")]
    KubeApiserver(Box<parts::api_server::Flags>),
    /// The controllers alone.
    #[command(name = "kube-controller-manager")]
    KubeControllerManager(Box<parts::controller_manager::Flags>),
    /// The scheduler alone.
    #[command(name = "kube-scheduler")]
    KubeScheduler(Box<parts::scheduler::Flags>),
    /// The node agent alone.
    #[command(name = "kubelet")]
    Kubelet(Box<parts::kubelet::Flags>),
    /// The service proxy alone.
    #[command(name = "kube-proxy")]
    KubeProxy(Box<parts::proxy::Flags>),
    /// The cluster DNS alone.
    #[command(name = "dns")]
    Dns(Box<parts::dns::Flags>),
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
    /// Name of the cluster.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Where clusters keep everything.
    #[arg(long, default_value = "/var/lib/cox", env = "COX_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// `cox up`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox up\n  cox up --name ci --no-node --secure-port 7443   control plane only, no root needed\n  \
    cox up --foreground -v=2"
)]
pub struct Up {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Port of the API server.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
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
    /// How long to wait until the cluster is healthy, in seconds.
    #[arg(long, default_value_t = 120)]
    pub wait: u64,
}

/// `cox down`.
#[derive(Args, Clone, Debug)]
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
pub struct Kubeconfig {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Prints the path of the file instead.
    #[arg(long)]
    pub path: bool,
}

/// Whether a program name is that of a part.
pub fn is_part(name: &str) -> bool {
    matches!(name, "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" | "kubelet" | "kube-proxy")
}

/// Prints a completion script.
pub fn complete(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "cox", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_is_named() {
        let error = Cli::try_parse_from(["cox", "kube-controller-manager", "--no-such-flag"]).err().unwrap();
        assert!(error.to_string().contains("--no-such-flag"), "{error}");
    }
}
