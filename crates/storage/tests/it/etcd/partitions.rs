//! Members on hosts of their own, whose network the kernel cuts: nobody is told, connections stay as if nothing were,
//! and what was on its way may arrive later.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::etcd::{Options, TlsFiles};
use storage::real_etcd::{self, Hosts, RealEtcd, Setup};
use storage::{Etcd, Storage};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use super::faults::{others, under};
use super::tls::{Authority, server};
use super::{PATIENCE, options};

/// Tells how long each cut took.
struct Watch(Instant);

impl Watch {
    fn tell(&mut self, what: &str) {
        println!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// Waits until a store notices that its member cannot be used, or can again.
async fn until(store: &Etcd, healthy: bool) {
    timeout(PATIENCE, async {
        while store.healthy().is_ok() != healthy {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the store notices");
}

/// Waits until a store with several members to choose from answers and gets events.
async fn served(store: &Etcd) {
    timeout(PATIENCE, async {
        while store.now().await.is_err() || store.healthy().is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the store turns to another member");
}

#[test]
fn members_that_the_kernel_cuts_off_lose_nothing() {
    if let Some(program) = real_etcd::program() {
        cut_off(program);
    }
}

#[test]
fn members_of_another_release_that_the_kernel_cuts_off_lose_nothing() {
    if let Some(program) = real_etcd::other_program() {
        cut_off(program);
    }
}

fn cut_off(program: PathBuf) {
    let Some(hosts) = Hosts::new(3) else { return };
    let here = hosts.clone();
    here.run(move || async move {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path();
        let authority = Authority::new(dir, "ca");
        let addresses: Vec<IpAddr> = (0..3).map(|member| hosts.address(member).into()).collect();
        let tls = Some(server(dir, &authority, &addresses));
        let files =
            TlsFiles { authority: authority.1.clone(), client: Some(authority.issue(dir, "client", &[])) };
        let setup = Setup { members: 3, tls, hosts: Some(hosts.clone()), ..Setup::default() };
        let etcd = RealEtcd::with(&program, dir, setup);
        let with = |endpoints| Options { tls: Some(files.clone()), ..options(endpoints) };
        // One that may ask all of them, and one for each member that asks no other, as an API server beside its etcd.
        let all = Arc::new(etcd.open(with(etcd.endpoints())).await);
        let mut lone = Vec::new();
        for member in 0..3 {
            lone.push(Arc::new(etcd.open(with(vec![etcd.endpoint(member)])).await));
        }
        let stores = [std::slice::from_ref(&all), lone.as_slice()].concat();
        let leader = || block_in_place(|| etcd.leader());
        let another = |than: usize| block_in_place(|| etcd.leader_among(&others(than)));
        let client = hosts.client();
        let mut watch = Watch(Instant::now());
        under(stores, async {
            sleep(Duration::from_millis(500)).await;
            // The leader is gone for everybody; it comes back before its client has noticed.
            let cut = leader();
            hosts.unplug(cut);
            another(cut);
            served(&all).await;
            hosts.plug(cut);
            until(&lone[cut], true).await;
            watch.tell("a leader that is gone");

            // The leader is cut off from the others, and its clients still reach it: it may promise nothing.
            let cut = leader();
            others(cut).into_iter().for_each(|other| hosts.part(cut, other));
            another(cut);
            until(&lone[cut], false).await;
            served(&all).await;
            others(cut).into_iter().for_each(|other| hosts.unite(cut, other));
            until(&lone[cut], true).await;
            watch.tell("a leader without followers");

            // A follower and the leader lose their clients, the members still see each other: long enough for every
            // connection to be given up.
            let cut = leader();
            let cut = [cut, others(cut)[0]];
            cut.into_iter().for_each(|member| hosts.part(member, client));
            for member in cut {
                until(&lone[member], false).await;
            }
            served(&all).await;
            cut.into_iter().for_each(|member| hosts.unite(member, client));
            watch.tell("members without clients");

            // A follower is gone for everybody; then nobody has a majority.
            let cut = others(leader());
            hosts.unplug(cut[0]);
            served(&all).await;
            hosts.unplug(cut[1]);
            sleep(Duration::from_secs(2)).await;
            cut.into_iter().for_each(|member| hosts.plug(member));
            watch.tell("no majority");
        })
        .await;
    });
}
