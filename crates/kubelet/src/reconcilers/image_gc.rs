//! Removes images that no container uses when the disk gets full, those unused for longest first.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::node::facts;
use crate::shared::Shared;

/// An image has to have been seen unused for this long (upstream's `imageMinimumGCAge`).
const MIN_AGE_SECONDS: i64 = 120;

/// Since when each image has been unused, by id.
#[derive(Default)]
pub struct Unused(HashMap<String, Timestamp>);

/// An image as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// Since when it has been unused.
    pub since: Timestamp,
}

/// The images to remove to get back so many bytes: pure.
pub fn victims(mut candidates: Vec<Candidate>, wanted: u64, now: Timestamp) -> Vec<String> {
    candidates.retain(|image| now.duration_since(image.since).as_secs() >= MIN_AGE_SECONDS);
    candidates.sort_by(|a, b| a.since.cmp(&b.since).then_with(|| a.id.cmp(&b.id)));
    let mut freed = 0;
    let mut out = Vec::new();
    for image in candidates {
        if freed >= wanted {
            break;
        }
        freed += image.size;
        out.push(image.id);
    }
    out
}

/// How many bytes have to be freed, by the thresholds in percent: pure.
pub fn wanted(free: u64, all: u64, high: u8, low: u8) -> u64 {
    let used = all.saturating_sub(free);
    if all == 0 || u128::from(used) * 100 < u128::from(all) * u128::from(high) {
        return 0;
    }
    used.saturating_sub(all / 100 * u64::from(low))
}

/// Looks once, and removes what has to go.
pub async fn collect(shared: &Shared, unused: &mut Unused) {
    let (Ok(images), Ok(containers)) =
        tokio::join!(shared.cri.list_images(), shared.cri.list_containers(None))
    else {
        return;
    };
    let used: BTreeSet<String> = containers
        .into_iter()
        .flat_map(|container| [Some(container.image_ref), container.image.map(|image| image.image)])
        .flatten()
        .collect();
    let now = Timestamp::now();
    let is_used = |image: &cri::v1::Image| {
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        // What no registry serves could not be had again: images of this machine stay, the sandbox's among them.
        let local = image.repo_tags.iter().any(|tag| tag.starts_with("localhost/"));
        let pinned = image.pinned;
        pinned || local || used.contains(&image.id) || names.into_iter().any(|name| used.contains(name))
    };
    let free: Vec<_> = images.iter().filter(|image| !is_used(image)).collect();
    unused.0.retain(|id, _| free.iter().any(|image| image.id == *id));
    let candidates = free
        .iter()
        .map(|image| Candidate {
            id: image.id.clone(),
            size: image.size,
            since: *unused.0.entry(image.id.clone()).or_insert(now),
        })
        .collect();
    let disk = facts::readings(&shared.config).disk;
    let wanted = wanted(disk.0, disk.1, shared.config.image_gc_high, shared.config.image_gc_low);
    if wanted == 0 {
        return;
    }
    for id in victims(candidates, wanted, now) {
        match shared.cri.remove_image(&id).await {
            Ok(()) => tracing::info!(image = id, "unused image removed"),
            Err(error) => tracing::debug!(image = id, error = %error, "image not removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_wants_space() {
        assert_eq!(wanted(50, 100, 85, 80), 0);
        assert_eq!(wanted(10, 100, 85, 80), 10);
        assert_eq!(wanted(0, 0, 85, 80), 0);
    }

    #[test]
    fn the_longest_unused_go_first_and_fresh_ones_stay() {
        let at = |second| Timestamp::from_second(second).expect("time");
        let image = |id: &str, since| Candidate { id: id.into(), size: 10, since: at(since) };
        let all = vec![image("b", 20), image("a", 10), image("fresh", 990)];
        assert_eq!(victims(all.clone(), 5, at(1000)), ["a"]);
        assert_eq!(victims(all, 100, at(1000)), ["a", "b"]);
    }
}
