//! Intervals over keys, searched by "which of you hold this key": a treap whose nodes know how far
//! their subtree reaches.
//!
//! Adding and removing cost O(log n) expected, a search O(log n + hits), however much the
//! intervals overlap: clients choose them, so no shape of theirs may be expensive.

use bytes::Bytes;

/// Half-open intervals `[start, end)`, each with a value; `None` as the end means "without end".
pub(super) struct RangeTree<T> {
    nodes: Vec<Node<T>>,
    free: Vec<usize>,
    root: Link,
    /// State of the generator that gives nodes their priority. Fixed seed: the shape of the tree
    /// depends on the calls alone.
    seed: u64,
}

type Link = Option<usize>;

struct Node<T> {
    start: Bytes,
    end: Option<Bytes>,
    /// Invariant: the largest end in the subtree of this node.
    reach: Option<Bytes>,
    priority: u64,
    left: Link,
    right: Link,
    value: T,
}

impl<T: Copy> RangeTree<T> {
    /// A tree without intervals.
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            root: None,
            seed: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The value of exactly this interval.
    pub(super) fn get_mut(&mut self, start: &[u8], end: Option<&[u8]>) -> Option<&mut T> {
        let mut at = self.root;
        while let Some(index) = at {
            match compare(start, end, &self.nodes[index]) {
                std::cmp::Ordering::Equal => return Some(&mut self.nodes[index].value),
                std::cmp::Ordering::Less => at = self.nodes[index].left,
                std::cmp::Ordering::Greater => at = self.nodes[index].right,
            }
        }
        None
    }

    /// Adds an interval that is not in the tree yet.
    pub(super) fn insert(&mut self, start: Bytes, end: Option<Bytes>, value: T) {
        let priority = self.next_priority();
        let reach = end.clone();
        let node = Node {
            start,
            end,
            reach,
            priority,
            left: None,
            right: None,
            value,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.root = Some(self.insert_at(self.root, index));
    }

    /// Removes exactly this interval, if it is there.
    pub(super) fn remove(&mut self, start: &[u8], end: Option<&[u8]>) {
        self.root = self.remove_at(self.root, start, end);
    }

    /// Calls `hit` with the value of every interval that holds `key`, in order of interval; stops
    /// early when `hit` answers false. Answers whether it went through to the end.
    pub(super) fn stab(&self, key: &[u8], hit: &mut impl FnMut(T) -> bool) -> bool {
        self.stab_at(self.root, key, hit)
    }

    fn stab_at(&self, at: Link, key: &[u8], hit: &mut impl FnMut(T) -> bool) -> bool {
        let Some(index) = at else { return true };
        let node = &self.nodes[index];
        if !ends_after(&node.reach, key) {
            return true;
        }
        if !self.stab_at(node.left, key, hit) {
            return false;
        }
        if node.start.as_ref() > key {
            return true;
        }
        if ends_after(&node.end, key) && !hit(node.value) {
            return false;
        }
        self.stab_at(node.right, key, hit)
    }

    fn insert_at(&mut self, at: Link, index: usize) -> usize {
        let Some(here) = at else { return index };
        let (start, end) = (
            self.nodes[index].start.clone(),
            self.nodes[index].end.clone(),
        );
        if self.nodes[index].priority > self.nodes[here].priority {
            let (left, right) = self.split(at, &start, end.as_deref());
            self.nodes[index].left = left;
            self.nodes[index].right = right;
            self.update(index);
            return index;
        }
        match compare(&start, end.as_deref(), &self.nodes[here]) {
            std::cmp::Ordering::Less => {
                let left = self.insert_at(self.nodes[here].left, index);
                self.nodes[here].left = Some(left);
            }
            _ => {
                let right = self.insert_at(self.nodes[here].right, index);
                self.nodes[here].right = Some(right);
            }
        }
        self.update(here);
        here
    }

    /// Parts a subtree into what sorts before the interval and what sorts after it.
    fn split(&mut self, at: Link, start: &[u8], end: Option<&[u8]>) -> (Link, Link) {
        let Some(here) = at else { return (None, None) };
        if compare(start, end, &self.nodes[here]).is_lt() {
            let (left, right) = self.split(self.nodes[here].left, start, end);
            self.nodes[here].left = right;
            self.update(here);
            (left, Some(here))
        } else {
            let (left, right) = self.split(self.nodes[here].right, start, end);
            self.nodes[here].right = left;
            self.update(here);
            (Some(here), right)
        }
    }

    fn remove_at(&mut self, at: Link, start: &[u8], end: Option<&[u8]>) -> Link {
        let here = at?;
        match compare(start, end, &self.nodes[here]) {
            std::cmp::Ordering::Equal => {
                let merged = self.merge(self.nodes[here].left, self.nodes[here].right);
                // Lets go of the keys now; the place waits for the next interval.
                self.nodes[here].start = Bytes::new();
                self.nodes[here].end = None;
                self.nodes[here].reach = None;
                self.free.push(here);
                return merged;
            }
            std::cmp::Ordering::Less => {
                self.nodes[here].left = self.remove_at(self.nodes[here].left, start, end);
            }
            std::cmp::Ordering::Greater => {
                self.nodes[here].right = self.remove_at(self.nodes[here].right, start, end);
            }
        }
        self.update(here);
        Some(here)
    }

    /// Joins two subtrees of which all of `left` sorts before all of `right`.
    fn merge(&mut self, left: Link, right: Link) -> Link {
        let (Some(l), Some(r)) = (left, right) else {
            return left.or(right);
        };
        if self.nodes[l].priority > self.nodes[r].priority {
            self.nodes[l].right = self.merge(self.nodes[l].right, right);
            self.update(l);
            Some(l)
        } else {
            self.nodes[r].left = self.merge(left, self.nodes[r].left);
            self.update(r);
            Some(r)
        }
    }

    fn update(&mut self, index: usize) {
        let node = &self.nodes[index];
        let mut reach = node.end.clone();
        for child in [node.left, node.right].into_iter().flatten() {
            reach = match (reach, &self.nodes[child].reach) {
                (Some(a), Some(b)) => Some(if a < *b { b.clone() } else { a }),
                _ => None,
            };
        }
        self.nodes[index].reach = reach;
    }

    /// Next number of a SplitMix64 sequence.
    fn next_priority(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Order of intervals in the tree: by start, then by end, an open end being the last.
fn compare<T>(start: &[u8], end: Option<&[u8]>, node: &Node<T>) -> std::cmp::Ordering {
    start
        .cmp(node.start.as_ref())
        .then_with(|| match (end, node.end.as_deref()) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => std::cmp::Ordering::Equal,
        })
}

fn ends_after(end: &Option<Bytes>, key: &[u8]) -> bool {
    end.as_ref().is_none_or(|end| key < end.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hits(tree: &RangeTree<usize>, key: &[u8]) -> Vec<usize> {
        let mut hits = Vec::new();
        tree.stab(key, &mut |value| {
            hits.push(value);
            true
        });
        hits.sort_unstable();
        hits
    }

    #[test]
    fn an_interval_holds_its_start_and_not_its_end() {
        let mut tree = RangeTree::new();
        tree.insert(Bytes::from("b"), Some(Bytes::from("d")), 1);
        tree.insert(Bytes::from("c"), None, 2);
        assert!(hits(&tree, b"a").is_empty());
        assert_eq!(hits(&tree, b"b"), [1]);
        assert_eq!(hits(&tree, b"c"), [1, 2]);
        assert_eq!(hits(&tree, b"d"), [2]);
        assert_eq!(hits(&tree, b"\xff\xff"), [2]);
    }

    fn bounds() -> impl Strategy<Value = (u8, Option<u8>)> {
        (0u8..20, proptest::option::of(0u8..20))
            .prop_filter("empty", |(start, end)| end.is_none_or(|end| *start < end))
    }

    proptest! {
        #[test]
        fn a_tree_answers_like_a_plain_list(
            steps in proptest::collection::vec((any::<bool>(), bounds()), 1..200)
        ) {
            let mut tree = RangeTree::new();
            let mut list: Vec<((u8, Option<u8>), usize)> = Vec::new();
            for (number, (add, range)) in steps.into_iter().enumerate() {
                let start = Bytes::copy_from_slice(&[range.0]);
                let end = range.1.map(|end| Bytes::copy_from_slice(&[end]));
                let known = list.iter().position(|(other, _)| *other == range);
                let found = tree.get_mut(&start, end.as_deref()).copied();
                prop_assert_eq!(found, known.map(|index| list[index].1));
                match (add, known) {
                    (true, None) => {
                        tree.insert(start, end, number);
                        list.push((range, number));
                    }
                    (false, Some(index)) => {
                        tree.remove(&start, end.as_deref());
                        list.remove(index);
                    }
                    _ => {}
                }
                for key in 0..21u8 {
                    let mut expected: Vec<usize> = list
                        .iter()
                        .filter(|((start, end), _)| {
                            *start <= key && end.is_none_or(|end| key < end)
                        })
                        .map(|(_, value)| *value)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(hits(&tree, &[key]), expected);
                }
            }
        }
    }
}
