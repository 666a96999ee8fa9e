//! The ways in, through live control planes: parts as processes of their own, certificates made by `openssl`, requests by
//! `kubectl` and `curl`. `cargo test -p e2e --test security -- NAME` runs the scenarios whose name contains NAME.
mod admission;
mod authority;
mod authorization;
mod certificates;
mod control_plane;
mod hook;
mod kubelets;
mod methods;
mod namespaces;
mod requests;
mod tokens;
mod transport;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

type Scenario = (&'static str, fn() -> Result<()>);

const SCENARIOS: &[Scenario] = &[
    ("client certificates: allowed and refused", certificates::table),
    ("the client CA and the serving certificate change without a restart", certificates::reload),
    ("certificate requests: approved, denied, signed, failed", requests::signers),
    ("cluster-info is signed", requests::cluster_info),
    ("tokens: bound, legacy, reviewed, replayed", tokens::tokens),
    ("a node gets what its pods need and nothing more", tokens::nodes),
    ("names that try to climb", tokens::traversal),
    ("OpenID Connect", methods::oidc),
    ("token webhook", methods::webhook),
    ("tokens and rules in files", methods::files),
    ("authorization webhook", authorization::webhook),
    ("authorization by a file that changes", authorization::config),
    ("admission plugins by flags and a file", admission::plugins),
    ("admission plugins that hold namespaces, owners and images", namespaces::plugins),
    ("impersonation", tokens::impersonation),
    ("certificates behind links", certificates::links),
    ("front proxy and anonymous paths", methods::front_proxy),
    ("versions, cipher suites, certificates by name", transport::transport),
    ("a kubelet gets and renews its certificates", kubelets::bootstrap),
];

/// The binary under test: `COX_BIN`, else the one that was built with this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("COX_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map(|dir| dir.join("cox")).unwrap_or_default()
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, scenario) in SCENARIOS {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            skipped += 1;
            continue;
        }
        let began = Instant::now();
        match scenario() {
            Ok(()) => {
                passed += 1;
                println!("ok   {name} ({:.1} s)", began.elapsed().as_secs_f64());
            }
            Err(e) => {
                failed += 1;
                println!("FAIL {name} ({:.1} s)\n{e:#}", began.elapsed().as_secs_f64());
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
