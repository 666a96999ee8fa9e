//! A host that goes at once, with all that runs on it, while somebody writes.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Cluster, Traffic, eventually};

use crate::PATIENCE;
use crate::verbs::hosts;

pub fn crash(cluster: &Cluster) -> Result<()> {
    Traffic::prepare(cluster)?;
    let across = cluster.kubectl().within("across");
    let victim = hosts(cluster).remove(0);
    let traffic = Traffic::start(cluster, "crash");
    // Whatever happens here, the writer has to end.
    let killed = (|| -> Result<()> {
        traffic.wait_for(50, PATIENCE)?;
        cluster.kill_host(&victim)?;
        traffic.wait_for(100, PATIENCE)
    })();
    let seen = traffic.stop()?;
    killed?;
    seen.judge(&cluster.kubectl(), "a control plane killed")?;
    // Generous: machines that run tests stand still for seconds. What is usual is printed.
    ensure!(seen.gap < Duration::from_secs(30), "no write went through for {:?}", seen.gap);
    // Pods on the other hosts were not disturbed, and one can get at them.
    let path = "{range .items[*]}{.metadata.name} {.spec.nodeName} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let pods = across.args(&["get", "pods", "-o", &format!("jsonpath={path}")])?;
    for line in pods.lines().filter(|l| !l.contains(&format!(" {victim} "))) {
        ensure!(line.ends_with(" 0"), "restarted: {line}");
        let pod = line.split_whitespace().next().unwrap_or_default();
        eventually("exec on another host", PATIENCE, || across.args(&["exec", pod, "--", "true"]))?;
    }
    let status = cluster.cox(&["status"])?;
    ensure!(status.code == Some(1) && status.out.contains(&victim), "{}{}", status.out, status.err);
    Ok(())
}

pub fn repair(cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    let answer = cluster.up_again()?;
    ensure!(answer["changed"] == true, "{answer}");
    println!("     the host is back after {:.1} s", began.elapsed().as_secs_f64());
    let kubectl = cluster.kubectl().within("across");
    kubectl.run(&format!("rollout status deployment hello --timeout={}s", PATIENCE.as_secs()))?;
    eventually("a healthy cluster", PATIENCE, || {
        let status = cluster.cox(&["status"])?;
        ensure!(status.code == Some(0), "{}{}", status.out, status.err);
        Ok(())
    })
}
