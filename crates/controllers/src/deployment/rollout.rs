//! The next step of a rollout, from what is seen.
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::revision::{self, REVISION, annotation, by_age, revision_of, set_replicas};
use super::scale::{
    self, available, is_recreate, is_saturated, max_unavailable, new_set_size, replicas, total, wanted,
};
use super::status;
use crate::framework::Next;

/// Everything the decision depends on.
pub struct Seen {
    pub deployment: Deployment,
    /// The sets it controls.
    pub sets: Vec<ReplicaSet>,
    /// Pods of other templates that have not ended.
    pub old_pods_running: bool,
}

/// What to write.
#[derive(Debug)]
pub struct Plan {
    pub create: Option<ReplicaSet>,
    pub update: Vec<ReplicaSet>,
    pub delete: Vec<ReplicaSet>,
    /// Texts of ScalingReplicaSet events.
    pub events: Vec<String>,
    /// With its next status and annotations.
    pub deployment: Deployment,
    pub next: Next,
}

/// The sets as they will be, and what was done to them.
struct Work {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    /// Position of the current template's set.
    new: Option<usize>,
    touched: Vec<bool>,
    made: bool,
    events: Vec<String>,
    delete: Vec<ReplicaSet>,
    now: Timestamp,
}

/// Decides the next step.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let new = revision::find_new(&seen.deployment, &seen.sets).map(|s| s.metadata.uid.clone());
    let new = new.and_then(|uid| seen.sets.iter().position(|s| s.metadata.uid == uid));
    let mut work = Work {
        deployment: seen.deployment.clone(),
        sets: seen.sets.clone(),
        new,
        touched: vec![false; seen.sets.len()],
        made: false,
        events: Vec::new(),
        delete: Vec::new(),
        now,
    };
    let spec = seen.deployment.spec.clone().unwrap_or_default();
    let paused = spec.paused.unwrap_or(false);
    let mut next = Next::Rest;
    if seen.deployment.metadata.deletion_timestamp.is_some() {
        work.number_new();
        work.count();
    } else {
        status::note_pause(&mut work.deployment, now);
        if paused || work.is_scaling() {
            work.number_new();
            work.scale();
            if paused {
                work.clean_up();
            }
            work.count();
        } else {
            if is_recreate(&work.deployment) {
                work.recreate(seen.old_pods_running)
            } else {
                work.roll()
            }
            next = work.count_with_progress(&seen.deployment);
        }
    }
    let mut create = None;
    let mut update = Vec::new();
    for (i, (set, touched)) in work.sets.into_iter().zip(work.touched).enumerate() {
        if work.made && Some(i) == work.new {
            create = Some(set);
        } else if touched {
            update.push(set);
        }
    }
    // What only came to be empty stays absent.
    let empty = work.deployment.status == Some(Default::default());
    if empty && seen.deployment.status.is_none() {
        work.deployment.status = None;
    }
    Plan { create, update, delete: work.delete, events: work.events, deployment: work.deployment, next }
}

impl Work {
    fn old(&self) -> Vec<usize> {
        let mut old: Vec<usize> = (0..self.sets.len()).filter(|i| Some(*i) != self.new).collect();
        old.sort_by_key(|i| by_age(&self.sets[*i]));
        old
    }

    fn total(&self) -> i32 {
        total(&self.sets)
    }

    /// Gives the current set its revision and annotations, and the Deployment the same revision.
    fn number_new(&mut self) {
        let Some(new) = self.new else { return };
        let newest_old = self.old().iter().map(|i| revision_of(&self.sets[*i].metadata)).max().unwrap_or(0);
        let before = self.sets[new].clone();
        revision::annotate_new(&self.deployment, &mut self.sets[new], newest_old + 1, !self.made);
        let min_ready = self.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        if let Some(spec) = &mut self.sets[new].spec
            && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
        {
            spec.min_ready_seconds = min_ready;
        }
        self.touched[new] |= self.sets[new] != before;
        let revision = annotation(&self.sets[new].metadata, REVISION).map(str::to_owned);
        if let Some(revision) = revision
            && annotation(&self.deployment.metadata, REVISION) != Some(&revision)
        {
            self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
        }
        if status::has_deadline(&self.deployment) {
            let name = self.sets[new].metadata.name.as_deref().unwrap_or("");
            let (reason, text) = if self.made {
                ("NewReplicaSetCreated", format!("Created new replica set {name:?}"))
            } else {
                ("FoundNewReplicaSet", format!("Found new replica set {name:?}"))
            };
            let conditions = &mut self.deployment.status.get_or_insert_default().conditions;
            if self.made || status::get(conditions, status::PROGRESSING).is_none() {
                status::set(
                    conditions,
                    status::condition(status::PROGRESSING, "True", reason, text, self.now),
                );
            }
        }
    }

    fn ensure_new(&mut self) {
        if self.new.is_none() {
            self.sets.push(revision::make_new(&self.deployment));
            self.touched.push(true);
            let at = self.sets.len() - 1;
            self.new = Some(at);
            self.made = true;
            let size = new_set_size(&self.deployment, self.total(), 0);
            self.resize(at, size);
        }
        self.number_new();
    }

    /// Sets a size, and notes for which size of the Deployment.
    fn resize(&mut self, at: usize, size: i32) {
        let set = &mut self.sets[at];
        let from = wanted(set);
        let noted = set_replicas(set.metadata.annotations.get_or_insert_default(), &self.deployment);
        self.touched[at] |= noted || from != size;
        if from == size {
            return;
        }
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        let way = if size > from { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or("");
        self.events.push(format!("Scaled {way} replica set {name} from {from} to {size}"));
    }

    fn resize_if_other(&mut self, at: usize, size: i32) -> bool {
        let other = wanted(&self.sets[at]) != size;
        if other {
            self.resize(at, size);
        }
        other
    }

    /// Whether some active set was sized for another size of the Deployment.
    fn is_scaling(&self) -> bool {
        let all = replicas(&self.deployment).to_string();
        self.sets.iter().filter(|s| wanted(s) > 0).any(|set| {
            annotation(&set.metadata, revision::DESIRED_REPLICAS).is_some_and(|desired| desired != all)
        })
    }

    fn scale(&mut self) {
        let all = replicas(&self.deployment);
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| wanted(&self.sets[*i]) > 0).collect();
        let only = match active[..] {
            [] => self.new.or_else(|| self.old().pop()),
            [one] => Some(one),
            _ => None,
        };
        if let Some(only) = only {
            self.resize_if_other(only, all);
            return;
        }
        if active.is_empty() {
            return;
        }
        if self.new.is_some_and(|new| is_saturated(&self.deployment, &self.sets[new])) {
            let new = self.new;
            for i in active.into_iter().filter(|i| Some(*i) != new) {
                self.resize_if_other(i, 0);
            }
            return;
        }
        if is_recreate(&self.deployment) {
            return;
        }
        let mut order = active;
        let growing = all > 0 && all + scale::max_surge(&self.deployment) > self.total();
        // The largest first; among equals the newest grows and the oldest shrinks first.
        order.sort_by(|a, b| {
            let (a, b) = (&self.sets[*a], &self.sets[*b]);
            let age = if growing { by_age(b).cmp(&by_age(a)) } else { by_age(a).cmp(&by_age(b)) };
            wanted(b).cmp(&wanted(a)).then(age)
        });
        let sets: Vec<&ReplicaSet> = order.iter().map(|i| &self.sets[*i]).collect();
        let sizes = scale::shares(&self.deployment, &sets);
        for (i, size) in order.into_iter().zip(sizes) {
            self.resize(i, size);
        }
    }

    fn roll(&mut self) {
        self.ensure_new();
        if self.made || self.grow_new() || self.shrink_old() {
            return;
        }
        self.clean_up_if_complete();
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let all = replicas(&self.deployment);
        let current = wanted(&self.sets[new]);
        let size = if current >= all { all } else { new_set_size(&self.deployment, self.total(), current) };
        self.resize_if_other(new, size)
    }

    fn shrink_old(&mut self) -> bool {
        let old: Vec<usize> = self.old().into_iter().filter(|i| wanted(&self.sets[*i]) > 0).collect();
        if old.is_empty() {
            return false;
        }
        let min_available = replicas(&self.deployment) - max_unavailable(&self.deployment);
        let new_unavailable = self.new.map_or(0, |new| wanted(&self.sets[new]) - available(&self.sets[new]));
        let may_go = self.total() - min_available - new_unavailable;
        if may_go <= 0 {
            return false;
        }
        // Pods that serve nobody go first.
        let mut gone = 0;
        for &i in &old {
            let (size, healthy) = (wanted(&self.sets[i]), available(&self.sets[i]));
            let down = (may_go - gone).min(size - healthy);
            if down > 0 {
                self.resize_if_other(i, size - down);
                gone += down;
            }
        }
        let all_available: i32 = self.sets.iter().map(available).sum();
        let mut spare = all_available - scale::min_available(&self.deployment);
        for &i in &old {
            let size = wanted(&self.sets[i]);
            let down = size.min(spare);
            if down > 0 {
                self.resize_if_other(i, size - down);
                spare -= down;
                gone += down;
            }
        }
        gone > 0
    }

    fn recreate(&mut self, old_pods_running: bool) {
        self.number_new();
        let mut shrunk = false;
        for i in self.old() {
            shrunk |= self.resize_if_other(i, 0);
        }
        if shrunk || old_pods_running {
            return;
        }
        self.ensure_new();
        if let Some(new) = self.new.filter(|_| !self.made) {
            let all = replicas(&self.deployment);
            self.resize_if_other(new, all);
        }
        self.clean_up_if_complete();
    }

    fn clean_up_if_complete(&mut self) {
        if self.deployment.status.as_ref().is_some_and(|s| status::is_complete(&self.deployment, s)) {
            self.clean_up();
        }
    }

    /// Removes the oldest empty sets beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit) else {
            return;
        };
        if limit == i32::MAX {
            return;
        }
        let mut old = self.old();
        old.retain(|i| self.sets[*i].metadata.deletion_timestamp.is_none());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|i| revision_of(&self.sets[*i].metadata));
        for i in old.into_iter().take(surplus) {
            let set = &self.sets[i];
            let status = set.status.clone().unwrap_or_default();
            if status.replicas == 0
                && wanted(set) == 0
                && set.metadata.generation <= status.observed_generation
            {
                self.delete.push(set.clone());
            }
        }
    }

    fn count(&mut self) {
        let new = self.new.map(|i| &self.sets[i]);
        self.deployment.status = Some(status::counted(&self.deployment, &self.sets, new, self.now));
    }

    fn count_with_progress(&mut self, seen: &Deployment) -> Next {
        let new = self.new.map(|i| &self.sets[i]);
        let counted = status::counted(&self.deployment, &self.sets, new, self.now);
        let before = seen.status.clone().unwrap_or_default();
        let (status, next) =
            status::with_progress(&self.deployment, &before, counted, &self.sets, new, self.now);
        self.deployment.status = Some(status);
        next
    }
}
