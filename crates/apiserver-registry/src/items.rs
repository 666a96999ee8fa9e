//! The objects of a page, visited in pieces.
use std::sync::Arc;

use apiserver_watch_cache::{CachedObject, OrderedMap};

/// Objects in key order, and how far they have been visited.
#[derive(Debug)]
pub struct Items {
    source: Source,
    visited: usize,
}

#[derive(Debug)]
enum Source {
    Chosen(Vec<Arc<CachedObject>>),
    /// All of a range of a snapshot. Nothing is made for each of them: to visit an object twice, once to remember and
    /// once to send it, costs more than to send it.
    Range {
        objects: OrderedMap<Arc<CachedObject>>,
        /// The first key that is not yet visited, or below it.
        next: String,
        end: String,
    },
}

impl From<Vec<Arc<CachedObject>>> for Items {
    fn from(chosen: Vec<Arc<CachedObject>>) -> Self {
        Self { source: Source::Chosen(chosen), visited: 0 }
    }
}

impl Items {
    /// All objects of a range; an empty `end` is no end.
    pub fn range(objects: OrderedMap<Arc<CachedObject>>, start: &str, end: &str) -> Self {
        Self { source: Source::Range { objects, next: start.to_owned(), end: end.to_owned() }, visited: 0 }
    }

    /// How many are not yet visited.
    pub fn remaining(&self) -> usize {
        match &self.source {
            Source::Chosen(all) => all.len() - self.visited,
            Source::Range { objects, next, end } => objects.count(next, end),
        }
    }

    /// Visits objects from where the last visit ended, until `visit` says that it has enough. Returns whether all have
    /// been visited.
    pub fn visit(&mut self, mut visit: impl FnMut(&Arc<CachedObject>) -> bool) -> bool {
        match &mut self.source {
            Source::Chosen(all) => {
                for object in &all[self.visited..] {
                    self.visited += 1;
                    if !visit(object) {
                        return self.visited == all.len();
                    }
                }
                true
            }
            Source::Range { objects, next, end } => {
                for object in objects.range(next, end) {
                    if !visit(object) {
                        *next = format!("{}\0", object.key);
                        return false;
                    }
                }
                end.clone_into(next);
                true
            }
        }
    }

    /// Those that are not yet visited.
    pub fn into_vec(mut self) -> Vec<Arc<CachedObject>> {
        let mut all = Vec::with_capacity(self.remaining());
        self.visit(|object| {
            all.push(object.clone());
            true
        });
        all
    }
}
