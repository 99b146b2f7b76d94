//! Which rules may be about the same requests? Found by the literal segments that their paths begin with, so that each rule
//! is compared with a few others, however many there are; where very many begin alike, with the first of them.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::rule::{RuleBody, To};

/// Rules by what they are about, each with what belongs to it.
pub(super) struct Nearby<'d, T> {
    rules: Vec<(T, &'d RuleBody)>,
    /// The places of rules by the beginnings of their paths; by the empty one where they are about any path.
    by_beginning: BTreeMap<Vec<u8>, Vec<usize>>,
}

// === impl Nearby ===

impl<'d, T: Copy> Nearby<'d, T> {
    pub(super) fn of(rules: impl Iterator<Item = (T, &'d RuleBody)>) -> Self {
        let rules: Vec<_> = rules.collect();
        let mut by_beginning: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (place, (_, rule)) in rules.iter().enumerate() {
            for beginning in beginnings(&rule.to).into_iter().map(|segments| joined(&segments)) {
                let places = by_beginning.entry(beginning).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        Self { rules, by_beginning }
    }

    /// All that may match whatever `to` matches, in order; and others.
    pub(super) fn above(&self, to: &To) -> impl Iterator<Item = (T, &'d RuleBody)> {
        let mut places = Vec::new();
        // What covers it covers each of its paths, so that the first is enough; or each of its calls, where it names no path.
        for segments in first(to) {
            for length in 0..=segments.len() {
                let beginning = joined(segments.get(..length).unwrap_or_default());
                places.extend(self.by_beginning.get(&beginning).into_iter().flatten());
            }
        }
        self.at(places)
    }

    /// All that may match nothing but what `to` matches, in order; and others.
    pub(super) fn below(&self, to: &To) -> impl Iterator<Item = (T, &'d RuleBody)> {
        let mut places = Vec::new();
        for beginning in beginnings(to).into_iter().map(|segments| joined(&segments)) {
            let from = (Bound::Included(beginning.as_slice()), Bound::Unbounded);
            let below = self.by_beginning.range::<[u8], _>(from);
            let below = below.take_while(|(other, _)| other.starts_with(&beginning));
            places.extend(below.flat_map(|(_, places)| places));
        }
        self.at(places)
    }

    fn at(&self, mut places: Vec<usize>) -> impl Iterator<Item = (T, &'d RuleBody)> {
        places.sort_unstable();
        places.dedup();
        places.into_iter().take(MAX_COMPARED).filter_map(|place| self.rules.get(place).copied())
    }
}

/// Others that a rule is compared with: advice is not worth the square of ten thousand rules.
pub(super) const MAX_COMPARED: usize = 256;

/// The literal segments with which its paths begin, and those of its calls. One that is empty is about any path.
fn beginnings(to: &To) -> Vec<Vec<&[u8]>> {
    let paths = to.paths.iter().map(|path| path.literals().collect());
    let calls = to.grpc.iter().map(|grpc| vec![grpc.service.as_bytes()]);
    let all: Vec<_> = paths.chain(calls).collect();
    if all.is_empty() { vec![Vec::new()] } else { all }
}

/// Of the first path and of the first call alone.
fn first(to: &To) -> Vec<Vec<&[u8]>> {
    let path = to.paths.first().map(|path| path.literals().collect());
    let call = to.grpc.first().map(|grpc| vec![grpc.service.as_bytes()]);
    let first: Vec<_> = path.into_iter().chain(call).collect();
    if first.is_empty() { vec![Vec::new()] } else { first }
}

/// Each segment with its length, so that no two beginnings are the same but those of the same segments.
fn joined(segments: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for segment in segments {
        joined.extend(segment.len().to_be_bytes());
        joined.extend(*segment);
    }
    joined
}
