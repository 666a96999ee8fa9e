//! The `cox` binary: parses, builds configuration, starts parts, maps exit codes. No rule of any part lives here.
#![forbid(unsafe_code)]
// A closed pipe would be a panic: everything is said through `output`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod addons;
mod args;
mod cluster;
mod cluster_file;
mod commands;
mod hosts;
mod output;
mod parts;
mod run;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::output::Failure;

/// Requests of many clients make many small things on one thread and drop them on another, which costs a quarter less
/// with it than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut argv: Vec<String> = std::env::args().collect();
    // The pause container is this binary: nothing may be allocated for it that is not needed.
    if argv.get(1).is_some_and(|a| a == "pause") && argv.len() == 2 {
        images::pause();
    }
    // A link named after a part behaves as that part.
    let name = argv.first().and_then(|a| a.rsplit('/').next()).unwrap_or("cox").to_owned();
    if args::is_part(&name) {
        argv.splice(0..1, ["cox".to_owned(), name]);
    } else if name == "hyperkube" {
        argv[0] = "cox".to_owned();
        if let Some(part) = argv.get_mut(1)
            && let Some(full) = args::part_of_hyperkube(part)
        {
            full.clone_into(part);
        }
    }
    if let [_, part, flags @ ..] = argv.as_slice()
        && args::is_part(part)
        && let Err(failure) = parts::removed_flags::check(part, flags)
    {
        output::print_failure(&failure, args::wants_json(&argv));
        return ExitCode::from(failure.code);
    }
    // What scripts written for upstream's binaries ask.
    if let [_, part, flag] = argv.as_slice()
        && args::is_part(part)
        && flag == "--version"
    {
        return match output::print(&format!("Kubernetes {}\n", parts::VERSION)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => ExitCode::from(failure.code),
        };
    }
    let cli = match Cli::try_parse_from(&argv) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && args::wants_json(&argv) => {
            let failure = Failure::new(error.to_string().trim_end(), "");
            output::print_failure(&failure, true);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        // Help, a version, or what is wrong, in colour.
        Err(error) => error.exit(),
    };
    let json = cli.output == args::Output::Json;
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            output::print_failure(&failure, json);
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let json = cli.output == args::Output::Json;
    base::telemetry::start(
        base::telemetry::Verbosity(cli.verbosity()),
        std::env::var("RUST_LOG").ok().as_deref(),
    );
    // It brings a small runtime of its own.
    if let Command::Hello { port } = cli.command {
        return commands::hello::hello(port);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(8)))
        .build()
        .map_err(|e| Failure::new(format!("cannot start: {e}"), "are threads or memory used up?"))?;
    runtime.block_on(async {
        match cli.command {
            Command::Init(options) => commands::init::init(&options, json),
            Command::Validate(options) => commands::validate::validate(&options, json),
            Command::Render(options) => commands::render::render(&options, json),
            Command::Up(options) => commands::up::up(*options, json).await,
            Command::Down(options) => commands::down::down(options, json).await,
            Command::Status(options) => commands::status::status(options, json).await,
            Command::Kubeconfig(options) => commands::kubeconfig::kubeconfig(&options, json),
            Command::Certs(options) => commands::certs::certs(*options, json).await,
            Command::Backup(options) => commands::backup::backup(options, json).await,
            Command::Restore(options) => commands::restore::restore(options, json).await,
            Command::Upgrade(options) => commands::upgrade::upgrade(options, json).await,
            Command::Db(options) => commands::db::db(options, json).await,
            Command::Migrate(options) => commands::migrate::migrate(*options, json).await,
            Command::Secrets(verb) => commands::secrets::secrets(verb, json).await,
            Command::Token(verb) => commands::token::token_verb(verb, json).await,
            Command::Join(options) => commands::join::join(*options, json).await,
            Command::Report => commands::on_host::report().await,
            Command::CleanHost { what } => commands::on_host::clean_host(what).await,
            Command::HostInit { spec } => commands::on_host::host_init(&spec).await,
            Command::Probe { patience_ms } => commands::on_host::probe(patience_ms).await,
            Command::Reach { question } => commands::reach::reach(&question).await,
            Command::ImportImages { socket, snapshotter } => {
                commands::on_host::import_images(&socket, &snapshotter).await
            }
            Command::Run(which) => commands::up::run_kept(which).await,
            Command::Completion { shell } => {
                let script = args::completion(shell);
                if json {
                    let value = serde_json::json!({ "shell": shell.to_string(), "script": script });
                    output::print_json(&value)?;
                } else {
                    output::print(&script)?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Hello { port } => commands::hello::hello(port),
            Command::Pause => images::pause(),
            Command::KubeApiserver(flags) => parts::api_server::run(flags).await,
            Command::KubeControllerManager(flags) => parts::controller_manager::run(flags).await,
            Command::KubeScheduler(flags) => parts::scheduler::run(flags).await,
            Command::Kubelet(flags) => parts::kubelet::run(flags).await,
            Command::KubeProxy(flags) => parts::proxy::run(flags).await,
            Command::Dns(flags) => parts::dns::run(flags).await,
            Command::Balancer(flags) => parts::balancer::run(flags).await,
        }
    })
}
