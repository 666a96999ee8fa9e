//! An ordered map whose clones share everything that has not changed since.
//!
//! A B+ tree with shared nodes: a clone is one reference count, a change copies the nodes on one path when they are
//! shared and changes them in place when they are not. Every subtree knows its size, so counting a range does not walk
//! it.

use std::sync::Arc;

/// The items of a leaf and the children of an inner node, at most.
const WIDTH: usize = 64;
/// Nodes below this size are merged with a neighbour when that fits.
const THIN: usize = WIDTH / 4;

/// Something that has its key with it.
pub trait Keyed: Clone {
    /// The key.
    fn key(&self) -> &Arc<str>;
}

/// An ordered map of items that have their key with them. A clone is a snapshot.
#[derive(Clone, Debug)]
pub struct OrderedMap<T> {
    root: Arc<Node<T>>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<T> {
    Leaf(Vec<T>),
    Inner(Vec<Child<T>>),
}

#[derive(Clone, Debug)]
struct Child<T> {
    /// Not above any key of the subtree, and above every key of the one before.
    first: Arc<str>,
    len: usize,
    node: Arc<Node<T>>,
}

impl<T> Default for OrderedMap<T> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<T: Keyed> OrderedMap<T> {
    /// Builds a map from items sorted by key, each key once.
    pub fn from_sorted(items: Vec<T>) -> Self {
        debug_assert!(items.windows(2).all(|pair| pair[0].key() < pair[1].key()));
        let len = items.len();
        let mut items = items.into_iter();
        let mut level: Vec<Child<T>> = Vec::new();
        loop {
            let leaf: Vec<T> = items.by_ref().take(WIDTH * 3 / 4).collect();
            let Some(first) = leaf.first() else { break };
            level.push(Child {
                first: first.key().clone(),
                len: leaf.len(),
                node: Arc::new(Node::Leaf(leaf)),
            });
        }
        while level.len() > 1 {
            let mut above = Vec::new();
            let mut children = level.into_iter();
            loop {
                let inner: Vec<Child<T>> = children.by_ref().take(WIDTH * 3 / 4).collect();
                let Some(first) = inner.first() else { break };
                let (first, len) = (first.first.clone(), inner.iter().map(|child| child.len).sum());
                above.push(Child { first, len, node: Arc::new(Node::Inner(inner)) });
            }
            level = above;
        }
        level.pop().map_or_else(Self::default, |root| Self { root: root.node, len })
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item with a key.
    pub fn get(&self, key: &str) -> Option<&T> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => return find(items, key).ok().map(|at| &items[at]),
                Node::Inner(children) => node = &children[child_for(children, key)].node,
            }
        }
    }

    /// Puts an item in; returns the one it replaced.
    pub fn insert(&mut self, item: T) -> Option<T> {
        let (replaced, split) = insert(&mut self.root, item);
        if replaced.is_none() {
            self.len += 1;
        }
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            let first = left.first().unwrap_or_else(|| right.first.clone());
            let left = Child { first, len: self.len - right.len, node: left };
            self.root = Arc::new(Node::Inner(vec![left, right]));
        }
        replaced
    }

    /// Takes an item out.
    pub fn remove(&mut self, key: &str) -> Option<T> {
        self.get(key)?;
        let removed = remove(&mut self.root, key)?;
        self.len -= 1;
        while let Node::Inner(children) = &*self.root {
            match &children[..] {
                [only] => self.root = only.node.clone(),
                [] => self.root = Arc::new(Node::Leaf(Vec::new())),
                _ => break,
            }
        }
        Some(removed)
    }

    /// How many keys are below `key`.
    pub fn rank(&self, key: &str) -> usize {
        let mut node = &*self.root;
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(items) => return rank + find(items, key).unwrap_or_else(|at| at),
                Node::Inner(children) => {
                    let at = child_for(children, key);
                    rank += children[..at].iter().map(|child| child.len).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }

    /// How many keys are in a range; an empty `end` is no end.
    pub fn count(&self, start: &str, end: &str) -> usize {
        let to = if end.is_empty() { self.len } else { self.rank(end) };
        to.saturating_sub(self.rank(start))
    }

    /// The items of a range in order; an empty `end` is no end.
    pub fn range<'a>(&'a self, start: &str, end: &'a str) -> Range<'a, T> {
        let mut path = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => {
                    let from = find(items, start).unwrap_or_else(|at| at);
                    let mut range = Range { path, leaf: [].iter(), end };
                    range.enter(&items[from..]);
                    return range;
                }
                Node::Inner(children) => {
                    let at = child_for(children, start);
                    path.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
            }
        }
    }

    /// All items in order.
    pub fn iter(&self) -> Range<'_, T> {
        self.range("", "")
    }
}

/// The items of a range in order.
pub struct Range<'a, T> {
    /// What follows in each inner node, from the root down.
    path: Vec<std::slice::Iter<'a, Child<T>>>,
    /// What follows in the leaf, all of it before the end.
    leaf: std::slice::Iter<'a, T>,
    end: &'a str,
}

impl<'a, T: Keyed> Range<'a, T> {
    /// Goes on with the items of a leaf. Only the last of them is compared with the end, as long as that is further
    /// on: a key is somewhere else in memory than its item.
    fn enter(&mut self, items: &'a [T]) {
        let beyond = |item: &T| !self.end.is_empty() && **item.key() >= *self.end;
        let mut items = items;
        if items.last().is_some_and(beyond) {
            items = &items[..items.partition_point(|item| !beyond(item))];
            self.path.clear();
        }
        self.leaf = items.iter();
    }
}

impl<'a, T: Keyed> Iterator for Range<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(item) = self.leaf.next() {
                return Some(item);
            }
            match self.path.last_mut()?.next().map(|child| &*child.node) {
                Some(Node::Leaf(items)) => self.enter(items),
                Some(Node::Inner(children)) => self.path.push(children.iter()),
                None => drop(self.path.pop()),
            }
        }
    }
}

impl<T: Keyed> Node<T> {
    fn width(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn first(&self) -> Option<Arc<str>> {
        match self {
            Self::Leaf(items) => items.first().map(|item| item.key().clone()),
            Self::Inner(children) => children.first().map(|child| child.first.clone()),
        }
    }
}

fn find<T: Keyed>(items: &[T], key: &str) -> Result<usize, usize> {
    items.binary_search_by(|item| (**item.key()).cmp(key))
}

/// The child whose subtree has the key, or would have it.
fn child_for<T>(children: &[Child<T>], key: &str) -> usize {
    children.partition_point(|child| *child.first <= *key).saturating_sub(1)
}

fn insert<T: Keyed>(node: &mut Arc<Node<T>>, item: T) -> (Option<T>, Option<Child<T>>) {
    match Arc::make_mut(node) {
        Node::Leaf(items) => {
            let at = match find(items, item.key()) {
                Ok(at) => return (Some(std::mem::replace(&mut items[at], item)), None),
                Err(at) => at,
            };
            items.insert(at, item);
            if items.len() <= WIDTH {
                return (None, None);
            }
            // Keys that only go up fill their leaves; others split in halves.
            let keep = if at + 1 == items.len() { WIDTH } else { WIDTH / 2 };
            let right = items.split_off(keep);
            let first = right[0].key().clone();
            (None, Some(Child { first, len: right.len(), node: Arc::new(Node::Leaf(right)) }))
        }
        Node::Inner(children) => {
            let at = child_for(children, item.key());
            if *item.key() < children[at].first {
                children[at].first = item.key().clone();
            }
            let (replaced, split) = insert(&mut children[at].node, item);
            if replaced.is_none() {
                children[at].len += 1;
            }
            if let Some(right) = split {
                children[at].len -= right.len;
                children.insert(at + 1, right);
            }
            if children.len() <= WIDTH {
                return (replaced, None);
            }
            let keep = if at + 2 == children.len() { WIDTH } else { WIDTH / 2 };
            let right = children.split_off(keep);
            let (first, len) = (right[0].first.clone(), right.iter().map(|child| child.len).sum());
            (replaced, Some(Child { first, len, node: Arc::new(Node::Inner(right)) }))
        }
    }
}

fn remove<T: Keyed>(node: &mut Arc<Node<T>>, key: &str) -> Option<T> {
    match Arc::make_mut(node) {
        Node::Leaf(items) => find(items, key).ok().map(|at| items.remove(at)),
        Node::Inner(children) => {
            let at = child_for(children, key);
            let removed = remove(&mut children[at].node, key)?;
            children[at].len -= 1;
            if children[at].len == 0 {
                children.remove(at);
            } else if children[at].node.width() < THIN {
                merge(children, at);
            }
            Some(removed)
        }
    }
}

/// Merges a thin child with a neighbour when both fit well into one.
fn merge<T: Keyed>(children: &mut Vec<Child<T>>, at: usize) {
    let fits = |left: usize| {
        children
            .get(left + 1)
            .is_some_and(|right| children[left].node.width() + right.node.width() <= WIDTH * 3 / 4)
    };
    let left = match at.checked_sub(1) {
        Some(before) if fits(before) => before,
        _ if fits(at) => at,
        _ => return,
    };
    let right = children.remove(left + 1);
    let into = &mut children[left];
    into.len += right.len;
    match (Arc::make_mut(&mut into.node), &*right.node) {
        (Node::Leaf(items), Node::Leaf(more)) => items.extend(more.iter().cloned()),
        (Node::Inner(inner), Node::Inner(more)) => inner.extend(more.iter().cloned()),
        _ => unreachable!("all leaves of the tree are equally deep"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(Arc<str>, u32);

    impl Keyed for Item {
        fn key(&self) -> &Arc<str> {
            &self.0
        }
    }

    fn item(key: u16, value: u32) -> Item {
        Item(format!("/{key:05}").into(), value)
    }

    fn contents(map: &OrderedMap<Item>) -> Vec<Item> {
        map.iter().cloned().collect()
    }

    fn check(map: &OrderedMap<Item>, model: &BTreeMap<Arc<str>, u32>) {
        let expected: Vec<Item> = model.iter().map(|(key, value)| Item(key.clone(), *value)).collect();
        assert_eq!(contents(map), expected);
        assert_eq!(map.len(), model.len());
        for key in (0..700_u16).step_by(97) {
            let (start, end) = (format!("/{key:05}"), format!("/{:05}", key + 150));
            let expected: Vec<_> = model
                .range::<str, _>((Bound::Included(&*start), Bound::Excluded(&*end)))
                .map(|(key, _)| key.clone())
                .collect();
            let found: Vec<_> = map.range(&start, &end).map(|item| item.0.clone()).collect();
            assert_eq!(found, expected);
            assert_eq!(map.count(&start, &end), expected.len());
            assert_eq!(map.get(&start).map(|item| item.1), model.get(&*start).copied());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_map_agrees_with_another_and_snapshots_stay(
            start in 0..600_u16,
            steps in proptest::collection::vec((0..700_u16, any::<bool>()), 0..1500),
        ) {
            let sorted: Vec<Item> = (0..start).map(|key| item(key, 0)).collect();
            let mut model: BTreeMap<Arc<str>, u32> = sorted.iter().map(|item| (item.0.clone(), item.1)).collect();
            let mut map = OrderedMap::from_sorted(sorted);
            check(&map, &model);
            let mut snapshots = Vec::new();
            for (number, (key, put)) in steps.into_iter().enumerate() {
                if number % 200 == 7 {
                    snapshots.push((map.clone(), contents(&map)));
                }
                let Item(key, value) = item(key, number as u32 + 1);
                if put {
                    let replaced = map.insert(Item(key.clone(), value)).map(|item| item.1);
                    prop_assert_eq!(replaced, model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key).map(|item| item.1), model.remove(&key));
                }
            }
            check(&map, &model);
            for (snapshot, expected) in snapshots {
                prop_assert_eq!(contents(&snapshot), expected);
            }
            for key in model.keys().rev() {
                prop_assert!(map.remove(key).is_some());
            }
            prop_assert!(map.is_empty() && map.iter().next().is_none());
        }
    }

    #[test]
    fn many_keys_in_order_make_a_shallow_full_tree() {
        let mut map = OrderedMap::default();
        for key in 0..20_000 {
            map.insert(item(key, 0));
        }
        let Node::Inner(children) = &*map.root else { panic!("20,000 keys in one leaf") };
        assert!(children.len() <= 20_000 / (WIDTH * WIDTH) + 2, "{} children", children.len());
        assert_eq!(map.count("/10000", ""), 10_000);
    }
}
