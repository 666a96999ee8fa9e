//! A set of fields, as a trie.
use serde_json::{Map, Value};

use super::element::Element;

/// The deepest set that is read; what a request may hold is never as deep.
const MAX_DEPTH: usize = 128;

/// A set of paths to fields: a trie of sorted steps. Whether a path is a member and whether paths below it are, are
/// two things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet(Vec<(Element, Branch)>);

/// What a set holds at and below one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Branch {
    /// The path that ends here is in the set.
    pub member: bool,
    /// Paths that go on.
    pub children: FieldSet,
}

impl Branch {
    /// A member with nothing below it.
    pub fn leaf() -> Self {
        Self { member: true, children: FieldSet::default() }
    }

    fn union(&mut self, other: Self) {
        self.member |= other.member;
        self.children.union(other.children);
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    /// A set of paths of field names.
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Whether it holds no path.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The steps from here, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Element, Branch)> {
        self.0.iter()
    }

    /// What is at and below one step.
    pub fn get(&self, element: &Element) -> Option<&Branch> {
        self.find(element).ok().map(|i| &self.0[i].1)
    }

    fn find(&self, element: &Element) -> Result<usize, usize> {
        self.0.binary_search_by(|(e, _)| e.cmp(element))
    }

    fn entry(&mut self, element: &Element) -> &mut Branch {
        let i = match self.find(element) {
            Ok(i) => i,
            Err(i) => {
                self.0.insert(i, (element.clone(), Branch::default()));
                i
            }
        };
        &mut self.0[i].1
    }

    /// Puts a path in.
    pub fn insert(&mut self, path: &[Element]) {
        if let Some((first, rest)) = path.split_first() {
            let branch = self.entry(first);
            match rest {
                [] => branch.member = true,
                rest => branch.children.insert(rest),
            }
        }
    }

    /// Puts a branch in at a step that is not there yet; nothing, where the branch is empty.
    pub fn push(&mut self, element: Element, branch: Branch) {
        if branch.is_empty() {
            return;
        }
        match self.0.last() {
            Some((last, _)) if *last >= element => match self.find(&element) {
                Ok(i) => self.0[i].1.union(branch),
                Err(i) => self.0.insert(i, (element, branch)),
            },
            _ => self.0.push((element, branch)),
        }
    }

    /// Whether a path is in the set.
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|b| b.member),
            [first, rest @ ..] => self.get(first).is_some_and(|b| b.children.has(rest)),
        }
    }

    /// Adds all paths of another set.
    pub fn union(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (element, branch) in other.0 {
            self.push(element, branch);
        }
    }

    /// The paths that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (element, mine) in &self.0 {
            if let Some(theirs) = other.get(element) {
                let children = mine.children.intersection(&theirs.children);
                out.push(element.clone(), Branch { member: mine.member && theirs.member, children });
            }
        }
        out
    }

    /// Takes out the paths of another set. Gives whether any was here.
    pub fn subtract(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (element, theirs) in &other.0 {
            let Ok(i) = self.find(element) else { continue };
            let mine = &mut self.0[i].1;
            changed |= mine.member && theirs.member;
            mine.member &= !theirs.member;
            changed |= mine.children.subtract(&theirs.children);
            if mine.is_empty() {
                self.0.remove(i);
            }
        }
        changed
    }

    /// Visits every path.
    pub fn each<'a>(&'a self, visit: &mut impl FnMut(&[&'a Element])) {
        self.walk(&mut Vec::new(), visit);
    }

    fn walk<'a>(&'a self, path: &mut Vec<&'a Element>, visit: &mut impl FnMut(&[&'a Element])) {
        for (element, branch) in &self.0 {
            path.push(element);
            if branch.member {
                visit(path);
            }
            branch.children.walk(path, visit);
            path.pop();
        }
    }

    /// Changes what is at each step; steps left empty go.
    pub(super) fn retain(&mut self, mut change: impl FnMut(&Element, &mut Branch)) {
        self.0.retain_mut(|(element, branch)| {
            change(element, branch);
            !branch.is_empty()
        });
    }

    /// Reads fieldsV1.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        Ok(read(value, 0)?.children)
    }

    /// Writes fieldsV1.
    pub fn into_value(self) -> Value {
        self.into_map(false).into()
    }

    fn into_map(self, member: bool) -> Map<String, Value> {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, branch) in self.0 {
            map.insert(element.into(), branch.children.into_map(branch.member).into());
        }
        map
    }
}

/// A member is a step that says so by `.`, or that has nothing below it.
fn read(value: &Value, depth: usize) -> Result<Branch, String> {
    let map = match value {
        Value::Object(map) if depth < MAX_DEPTH => map,
        Value::Object(_) => return Err("fields are nested too deeply".to_owned()),
        Value::Null => return Ok(Branch::leaf()),
        other => return Err(format!("expected an object of fields, got {other}")),
    };
    let mut branch = Branch::default();
    for (key, below) in map {
        if key == "." {
            branch.member = true;
        } else if let Some(element) = Element::parse(key)? {
            branch.children.push(element, read(below, depth + 1)?);
        }
    }
    branch.member |= branch.children.is_empty();
    Ok(branch)
}
