//! What is there room for? Of many policies and rules first what decided, then what matched, then what is about the path.

use std::collections::BTreeSet;

use super::JudgedPolicy;
use crate::rule::{Judged, Rule, Word};
use crate::snapshot::RuleId;

/// Policies, and rules of all of them, that are shown.
pub(super) const MAX_POLICIES: usize = 16;
pub(super) const MAX_RULES: usize = 128;
/// Rules of one policy that are shown.
pub(super) const MAX_RULES_OF_POLICY: usize = 64;

/// How much a rule has to say; the first is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// The rule of the decision.
    Decides,
    Matches,
    Near,
    /// It is about other paths.
    Far,
}

// === impl JudgedPolicy ===

impl JudgedPolicy<'_> {
    /// That of its first rule.
    fn rank(&self) -> Rank {
        self.rules.iter().map(|rule| rule.rank).min().unwrap_or(Rank::Far)
    }
}

// === impl Rank ===

impl Rank {
    pub(super) fn of(rule: &Rule, judged: Judged<'_>, decisive: Option<RuleId>) -> Self {
        match judged {
            _ if decisive == Some(rule.id) => Self::Decides,
            _ if rule.body.is_met(judged) => Self::Matches,
            Judged::No(Word::Paths | Word::Grpc) => Self::Far,
            _ => Self::Near,
        }
    }
}

/// As many policies as there is room for, in order, each with as many of its rules; and the number of its other rules.
pub(super) fn shown(mut policies: Vec<JudgedPolicy<'_>>) -> Vec<(JudgedPolicy<'_>, usize)> {
    policies = first(policies, MAX_POLICIES, JudgedPolicy::rank);
    let written: Vec<usize> = policies.iter().map(|policy| policy.rules.len()).collect();
    for policy in &mut policies {
        policy.rules = first(std::mem::take(&mut policy.rules), MAX_RULES_OF_POLICY, |rule| rule.rank);
    }
    let ranks = policies.iter().flat_map(|policy| &policy.rules).map(|rule| rule.rank);
    let mut kept = kept(ranks, MAX_RULES).into_iter();
    for policy in &mut policies {
        policy.rules.retain(|_| kept.next() == Some(true));
    }
    let shown = policies.into_iter().zip(written);
    shown
        .map(|(policy, written)| {
            let more = written - policy.rules.len();
            (policy, more)
        })
        .collect()
}

/// In order; where there are too many, those that rank first, and of the same rank those that come first.
fn first<T, R: Ord>(all: Vec<T>, limit: usize, rank: impl Fn(&T) -> R) -> Vec<T> {
    let kept = kept(all.iter().map(rank), limit);
    all.into_iter().zip(kept).filter(|(_, is_kept)| *is_kept).map(|(one, _)| one).collect()
}

fn kept<R: Ord>(ranks: impl Iterator<Item = R>, limit: usize) -> Vec<bool> {
    let mut places: Vec<(R, usize)> = ranks.zip(0..).collect();
    let all = places.len();
    places.sort_unstable();
    let kept: BTreeSet<usize> = places.into_iter().take(limit).map(|(_, place)| place).collect();
    (0..all).map(|place| kept.contains(&place)).collect()
}
