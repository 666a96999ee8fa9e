//! systemd units, made from services.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{PlannedService, ServiceType, StopWith};

/// Where a service's unit lies: where administrators' units do, which win over those of packages.
pub fn unit_path(service: &PlannedService) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{}.service", service.name))
}

/// One word of `ExecStart=` or `Environment=`: percent signs are specifiers and dollars variables to systemd.
fn quoted(word: &str, dollars: bool) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        match c {
            '%' => out.push_str("%%"),
            '$' if dollars => out.push_str("$$"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '\'' | '\\' | ';');
    if !word.is_empty() && word.chars().all(plain) { out } else { format!("\"{out}\"") }
}

/// The text of a service's unit file.
pub fn unit_text(service: &PlannedService) -> String {
    let mut text = String::from("# Written by cox; changes are undone by the next `cox up`.\n[Unit]\n");
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    say(format_args!("Description={}", service.description.replace('%', "%%")));
    say(format_args!("Documentation=https://kubernetes.io/docs/"));
    say(format_args!("Wants=network-online.target"));
    let after: String = service.after.iter().map(|unit| format!(" {unit}.service")).collect();
    say(format_args!("After=network-online.target{after}"));
    // It is tried again for ever: what it waits for (a quorum, a server) comes back by itself.
    say(format_args!("StartLimitIntervalSec=0\n\n[Service]"));
    say(format_args!(
        "Type={}",
        match service.kind {
            ServiceType::Simple => "simple",
            ServiceType::Notify => "notify",
        }
    ));
    let words: Vec<String> = service.exec.iter().map(|w| quoted(w, true)).collect();
    say(format_args!("ExecStart={}", words.join(" \\\n  ")));
    for (name, value) in &service.environment {
        say(format_args!("Environment={}", quoted(&format!("{name}={value}"), false)));
    }
    say(format_args!("Restart=always\nRestartSec=2"));
    if service.stop == StopWith::MainProcess {
        say(format_args!("KillMode=process"));
    }
    if service.delegate {
        say(format_args!("Delegate=yes\nTasksMax=infinity"));
    }
    if let Some(score) = service.oom_score_adjust {
        say(format_args!("OOMScoreAdjust={score}"));
    }
    if let Some(most) = service.open_files {
        say(format_args!("LimitNOFILE={most}"));
    }
    say(format_args!("\n[Install]\nWantedBy=multi-user.target"));
    text
}

/// Whether a service that was started with the unit `found` has to be started again to be as planned.
pub fn restart_needed(found: &str, service: &PlannedService) -> bool {
    let matters = |line: &&str| {
        let line = line.trim_start().trim_start_matches("--");
        !line.starts_with('#') && !service.first_start.iter().any(|flag| line.starts_with(flag.as_str()))
    };
    // The last word of a line that goes on and that of one that ends are the same.
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(matters).map(|l| l.trim_end_matches(" \\").to_owned()).collect()
    };
    lines(found) != lines(&unit_text(service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Stage;

    #[test]
    fn a_unit_has_what_systemd_needs() {
        let exec = ["/usr/local/bin/kubelet", "--node-ip=192.0.2.1"].map(str::to_owned).to_vec();
        let mut service = PlannedService::new("kubelet", "Kubernetes Kubelet", Stage::Node, exec);
        service.after = vec!["containerd".into()];
        service.stop = StopWith::MainProcess;
        service.environment.insert("A".into(), "b c".into());
        let want = "\
# Written by cox; changes are undone by the next `cox up`.
[Unit]
Description=Kubernetes Kubelet
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target containerd.service
StartLimitIntervalSec=0

[Service]
Type=simple
ExecStart=/usr/local/bin/kubelet \\
  --node-ip=192.0.2.1
Environment=\"A=b c\"
Restart=always
RestartSec=2
KillMode=process

[Install]
WantedBy=multi-user.target
";
        assert_eq!(unit_text(&service), want);
        assert_eq!(unit_path(&service), Path::new("/etc/systemd/system/kubelet.service"));
    }

    #[test]
    fn what_matters_at_the_first_start_alone_restarts_nothing() {
        let service = |flags: &[&str]| {
            let exec = ["/usr/bin/etcd"].iter().chain(flags).map(|s| (*s).to_owned()).collect();
            let mut service = PlannedService::new("etcd", "etcd", Stage::Etcd, exec);
            service.first_start = vec!["initial-".into()];
            service
        };
        let found = unit_text(&service(&["--name=a", "--initial-cluster=a=x"]));
        assert!(!restart_needed(&found, &service(&["--name=a", "--initial-cluster=a=x,b=y"])));
        assert!(!restart_needed(&found, &service(&["--name=a"])));
        assert!(restart_needed(&found, &service(&["--name=b", "--initial-cluster=a=x"])));
    }

    #[test]
    fn words_mean_themselves() {
        let check = |word: &str, want: &str| assert_eq!(quoted(word, true), want);
        check("--a=b", "--a=b");
        check("100%", "100%%");
        check("$HOME", "$$HOME");
        check("a b", "\"a b\"");
        check("say \"no\"", "\"say \\\"no\\\"\"");
        check("", "\"\"");
        check(";", "\";\"");
    }
}
